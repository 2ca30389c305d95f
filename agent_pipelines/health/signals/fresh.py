"""Staleness: the age of the oldest source change that readers do not get yet."""

from itertools import islice

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View
from agent_pipelines.indexing import changes


def _evaluate(view: View) -> Reading:
    plan = view.plan
    since = changes.oldest(view.index.engine, view.index.name)
    staleness = max(0.0, (view.now - since).total_seconds()) if since else 0.0
    bound = view.index.max_staleness_seconds
    return Reading(
        State.TRUE if staleness <= bound else State.FALSE,
        observed=f"{staleness:.0f} s, {plan.changed} changes not live",
        expected=f"at most {bound:.0f} s",
        evidence=[
            {"document": id_, "change": "deleted" if ref is None else "new or changed"}
            for id_, ref in islice(plan.changes(), 20)
        ],
    )


SIGNAL = Signal(
    name="fresh",
    statement="no source change has been waiting longer than max_staleness to become live",
    severity="page",
    depth="tick",
    guards="live",
    repair="sync",
    runbook="Syncs are failing or not running. Look at the index's last sync run and at the "
    "sensor; `agent-pipelines sync INDEX` runs one now.",
    evaluate=_evaluate,
)
