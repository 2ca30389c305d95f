"""The exact half of the comparison between ledger and store: every id and its content."""

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View
from agent_pipelines.indexing.reconcile import Fault

_FAULTS: tuple[Fault, ...] = ("missing", "orphan", "altered", "foreign spec")


def _evaluate(view: View) -> Reading:
    census = view.census
    counts = {fault: census.count(fault) for fault in _FAULTS}
    summary = ", ".join(f"{count} {fault}" for fault, count in counts.items() if count)
    return Reading(
        State.FALSE if summary else State.TRUE,
        observed=f"{census.objects} objects" + (f": {summary}" if summary else ""),
        expected="every id of the ledger once, with the content it was given, and no other",
        evidence=[
            {"chunk": id_, "fault": fault}
            for fault in _FAULTS
            for id_, _ in census.details(fault, limit=20)
        ],
    )


SIGNAL = Signal(
    name="ids_match",
    statement="the ids and the content in the store are those in the ledger",
    severity="page",
    depth="audit",
    guards="index",
    repair="verify",
    runbook="The store holds something else than was written: objects are missing, altered or "
    "nobody's. `agent-pipelines sync INDEX --verify` compares everything and repairs it.",
    evaluate=_evaluate,
)
