"""The cheap half of the comparison between ledger and store: exact counts."""

from agent_pipelines.health.signal import Reading, Signal, holds
from agent_pipelines.health.view import View


def _evaluate(view: View) -> Reading:
    expected = view.counts.chunks
    observed = view.index.store.count(view.generation.collection)
    return holds(
        observed == expected, f"{observed} objects in the store", f"{expected}, as in the ledger"
    )


SIGNAL = Signal(
    name="counts_match",
    statement="the store holds exactly as many objects as the ledger has chunks",
    severity="page",
    depth="tick",
    guards="index",
    repair="verify",
    runbook="Objects were deleted from or added to Weaviate by something other than a sync, or a "
    "restore brought back an older state. The next sync compares everything and repairs it.",
    evaluate=_evaluate,
)
