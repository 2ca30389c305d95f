"""Objects against the vector index: chunks in turn are searched for by their own vector.

Weaviate can lose entries of its vector index and keep the objects: counts, ids and contents are as
they should be, and no search by meaning finds them.
"""

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import CannotTellError, View

#: Hits among which a chunk must be that was not among the first: the index is approximate.
_AMONG = 500


def _evaluate(view: View) -> Reading:
    store, collection, sampled = view.index.store, view.generation.collection, view.in_turn
    missed = set(store.unfindable(collection, sampled))
    # Nothing is nearer to a vector than itself, so an exact search would have it first: among very
    # many hits an approximate one that can reach it at all has it too.
    again = store.get(collection, sorted(missed))
    lost = store.unfindable(collection, list(again.values()), among=_AMONG) if again else ()
    if not view.undisturbed:
        raise CannotTellError("a sync or a commit came between")
    view.turn.found("not found", dict.fromkeys(lost, ""))
    documents = {stored.chunk.id: stored.chunk.document_id for stored in sampled}
    return Reading(
        State.FALSE if lost else State.TRUE,
        observed=f"{len(sampled) - len(lost)} of {len(sampled)} chunks are found by their vector"
        f" ({view.turn.total} chunks in turn)",
        expected="all of them",
        evidence=[{"chunk": id_, "document": documents[id_]} for id_ in lost[:20]],
    )


SIGNAL = Signal(
    name="vectors_findable",
    statement="chunks are found by a search for their own vector; all have their turn within a "
    "day, 500 per audit at most",
    severity="page",
    depth="audit",
    guards="index",
    repair="verify",
    runbook="The store holds these chunks, and its vector index does not: it was damaged, as by a "
    "crash. `agent-pipelines sync INDEX --verify` searches for every chunk and writes again what "
    "is not found.",
    evaluate=_evaluate,
)
