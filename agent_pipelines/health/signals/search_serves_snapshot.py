"""The serving path: readers are given the committed snapshot, by the model it was built with."""

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.health.probes import by_chance, missed
from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import CannotTellError, View
from agent_pipelines.indexing import live

#: Chunks by chance, other ones every time. One is enough where all is well; a path that is wrong is
#: wrong for all of them, and one chunk that is lost is the matter of other signals.
_CANARIES = 5


def _evaluate(view: View) -> Reading:
    before, index = view.snapshot, view.index
    ledger = index.ledger(before.collection)
    ids = by_chance(ledger, _CANARIES)
    if not ids:
        return Reading(State.TRUE, "the index is empty", "nothing to find")
    held = index.store.get(before.collection, ids)
    entries = ledger.entries(ids)
    canaries = [
        stored
        for id_, stored in held.items()
        if stored.vector is not None
        and id_ in entries
        and entries[id_].content_hash == stored.chunk.content_hash
    ]
    if not canaries:
        raise CannotTellError(f"the store holds none of {len(ids)} chunks that were looked up")
    expected = f"snapshot {before.sequence}, and the chunk first"
    misses = []
    for wanted in canaries:
        try:
            reason, seen = missed(view, wanted, load_model=False)
        except UnavailableError:
            raise
        except UserError as error:
            return Reading(State.FALSE, f"{error.message}, {view.serving.name}", expected)
        # A commit may come between: what it was before or after is both right.
        after = live.latest(index.engine, index.name) or before
        if seen and not before.sequence <= seen.sequence <= after.sequence:
            observed = f"snapshot {seen.sequence}, {view.serving.name}"
            return Reading(State.FALSE, observed, expected)
        if reason is None:
            observed = f"snapshot {before.sequence}, and the chunk found, {view.serving.name}"
            return Reading(State.TRUE, observed, expected)
        chunk = wanted.chunk
        misses.append({"chunk": chunk.id, "document": chunk.document_id, "fault": str(reason)})
    now = ledger.entries([miss["chunk"] for miss in misses])
    if len(now) < len(misses) or any(entry.state != "present" for entry in now.values()):
        raise CannotTellError("a sync replaced what was looked for")
    observed = f"{len(misses)} of {len(misses)} chunks not found, {view.serving.name}"
    return Reading(State.FALSE, observed, expected, evidence=misses)


SIGNAL = Signal(
    name="search_serves_snapshot",
    statement="a chunk that is searched for by its text comes back as it was committed",
    severity="page",
    depth="tick",
    guards="live",
    repair="person",
    runbook="Readers are given something else than the committed snapshot: the search tool server "
    "reads another Weaviate or another state database, was started before the index existed, or "
    "encodes queries with another model. Compare its WEAVIATE_URL, STATE_DATABASE_URL, "
    "AGENT_PIPELINES_ASSETS and EMBEDDER_MODEL with those of the syncs, and start it again.",
    evaluate=_evaluate,
)
