"""The ledger against itself: whether the chunks of each document add up to what was cut from it.

What is missing from ledger and store alike no comparison of the two can see, and the source lists
the document as it did before.
"""

from itertools import islice

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View


def _evaluate(view: View) -> Reading:
    documents = view.counts.documents
    incomplete = list(islice(view.ledger.incomplete(), 1_000))
    return Reading(
        State.FALSE if incomplete else State.TRUE,
        observed=f"{len(incomplete)} of {documents} documents have other chunks than were cut",
        expected="each has all of its chunks, in their order",
        evidence=[{"document": id_} for id_ in incomplete[:20]],
    )


SIGNAL = Signal(
    name="documents_complete",
    statement="the chunks of every indexed document add up to what was cut from it",
    severity="page",
    depth="audit",
    guards="index",
    repair="verify",
    runbook="Somebody edited the state database, or a part of it was lost: chunks are missing from "
    "the ledger that the document still has. `agent-pipelines sync INDEX --verify` reads these "
    "documents again.",
    evaluate=_evaluate,
)
