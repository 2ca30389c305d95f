"""Documents that the source lists but the index could not take in."""

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View


def _evaluate(view: View) -> Reading:
    failed = view.counts.failed
    return Reading(
        State.FALSE if failed else State.TRUE,
        observed=f"{failed} documents failed",
        expected="none",
        evidence=[
            {"document": id_, "reason": error}
            for id_, error in view.ledger.failures(limit=50).items()
        ],
    )


SIGNAL = Signal(
    name="documents_indexed",
    statement="every document that the source lists could be read and indexed",
    severity="page",
    depth="tick",
    guards="live",
    repair="person",
    runbook="The evidence names each document and why it failed. Mend it or exclude it in the "
    "index's defs.yaml; every sync tries it again. What was indexed of it before is still served.",
    evaluate=_evaluate,
)
