"""The exact half of the comparison between ledger and store: every id and its content."""

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View


def _evaluate(view: View) -> Reading:
    census = view.census
    differing = {
        "missing": census.missing,
        "orphan": census.orphans,
        "altered": census.altered,
        "foreign spec": census.foreign,
    }
    summary = ", ".join(f"{len(ids)} {kind}" for kind, ids in differing.items() if ids)
    return Reading(
        State.FALSE if summary else State.TRUE,
        observed=f"{census.objects} objects" + (f": {summary}" if summary else ""),
        expected="every id of the ledger once, with the content it was given, and no other",
        evidence=[
            {"chunk": id_, "fault": kind} for kind, ids in differing.items() for id_ in ids[:20]
        ],
    )


SIGNAL = Signal(
    name="ids_match",
    statement="the ids and the content in the store are those in the ledger",
    severity="page",
    depth="audit",
    guards="index",
    runbook="The store holds something else than was written: objects are missing, altered or "
    "nobody's. `agent-pipelines sync INDEX --verify` compares everything and repairs it.",
    evaluate=_evaluate,
)
