"""The serving path: what was written last is found when it is searched for."""

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View

#: How many of the most recently written documents are searched for.
_PROBES = 5

#: A known item must be among this many hits; its twin in another document may come first.
_WITHIN = 10


def _evaluate(view: View) -> Reading:
    ledger = view.index.ledger(view.snapshot.collection)
    known = view.index.store.get(view.snapshot.collection, ledger.sample(newest=_PROBES))
    missed = []
    for stored in known.values():
        chunk = stored.chunk
        # By meaning alone: the words of a chunk would find it where its vector is lost.
        found = view.searcher.search(view.index.name, chunk.text, limit=_WITHIN, alpha=1).hits
        # Equal text in two chunks is equally near; finding either is finding it.
        if not any(hit.chunk_id == chunk.id or hit.text == chunk.text for hit in found):
            missed.append({"chunk": chunk.id, "document": chunk.document_id})
    if not known and ledger.counts().chunks == 0:
        return Reading(State.TRUE, "the index is empty", "nothing to find")
    return Reading(
        State.TRUE if known and not missed else State.FALSE,
        observed=f"{len(known) - len(missed)} of {len(known)} known items found by search",
        expected="all of them",
        evidence=missed,
    )


SIGNAL = Signal(
    name="known_items_found",
    statement="chunks that were written last are found by searching for their text",
    severity="page",
    depth="audit",
    guards="live",
    repair="verify",
    runbook="The store holds these chunks, but search does not return them: the vector index is "
    "damaged, or queries are encoded by another model. `agent-pipelines sync INDEX --verify` "
    "searches for every chunk and writes again what is not found; if that does not help, compare "
    "the embedder of the search tool server with the index's spec.",
    evaluate=_evaluate,
)
