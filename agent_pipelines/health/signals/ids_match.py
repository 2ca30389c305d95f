"""The exact half of the comparison between ledger and store: every id and its content."""

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View
from agent_pipelines.indexing.reconcile import Fault

_FAULTS: tuple[Fault, ...] = ("missing", "orphan", "altered", "foreign spec")


def _evaluate(view: View) -> Reading:
    census = view.census
    counts = {fault: census.count(fault) for fault in _FAULTS}
    faults = [f"{count} {fault}" for fault, count in counts.items() if count]
    twice = view.ledger.twice(limit=20)
    if twice:
        faults.append(f"{len(twice)} in the same place of a document")
    if (counted := view.index.store.count(view.generation.collection)) != census.objects:
        faults.append(f"counted as {counted}")
    return Reading(
        State.FALSE if faults else State.TRUE,
        observed=f"{census.objects} objects" + (f": {', '.join(faults)}" if faults else ""),
        expected="every id of the ledger once, with the content it was given, and no other",
        evidence=[
            *(
                {"chunk": id_, "fault": fault}
                for fault in _FAULTS
                for id_, _ in census.details(fault, limit=20)
            ),
            *({"chunk": id_, "fault": "same place"} for id_ in twice),
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
