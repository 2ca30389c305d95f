"""The alias that readers go through."""

from agent_pipelines.health.signal import Reading, Signal, holds
from agent_pipelines.health.view import View


def _evaluate(view: View) -> Reading:
    store, committed = view.index.store, view.snapshot.collection
    target = store.alias_target(view.index.alias)
    exists = committed in store.collections()
    observed = f"{view.index.alias} → {target}" + ("" if exists else f"; {committed} is gone")
    return holds(target == committed and exists, observed, f"{view.index.alias} → {committed}")


SIGNAL = Signal(
    name="alias_points_to_live",
    statement="the alias points to the committed generation, and that exists",
    severity="page",
    depth="tick",
    guards="live",
    repair="sync",
    runbook="Somebody moved the alias or deleted the collection. A sync builds what is missing "
    "and points the alias again: `agent-pipelines sync INDEX`.",
    evaluate=_evaluate,
)
