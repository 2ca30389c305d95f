"""A canary: the store takes a write, and gives it back."""

from uuid import uuid4

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View
from agent_pipelines.indexing.store import StoreError


def _evaluate(view: View) -> Reading:
    store, key, canary = view.index.store, f"canary of {view.index.alias}", uuid4().hex
    expected = "it is read back, and no shard is read-only"
    try:
        before = store.note(key)
        store.write_note(key, canary, view.index.settings)
        after = store.note(key)
    except StoreError as refused:
        return Reading(State.FALSE, f"the canary was refused: {refused}", expected)
    # Another process may have put its own in place of ours; that one was written then.
    alive = after == canary or after not in (None, before)
    shards = store.read_only(view.snapshot.collection)
    observed = "the canary is there" if alive else "the canary was taken and is not there"
    return Reading(
        State.TRUE if alive and not shards else State.FALSE,
        observed + (f"; {len(shards)} shards are read-only" if shards else ""),
        expected,
        evidence=[{"shard": name, "fault": "read-only"} for name in shards],
    )


SIGNAL = Signal(
    name="store_writable",
    statement="the store takes a write and gives it back",
    severity="page",
    depth="tick",
    guards="live",
    repair="person",
    runbook="Weaviate answers and does not store: mostly its disk is full (it turns read-only "
    "above DISK_USE_READONLY_PERCENTAGE), or its key may only read. Syncs fail until it does. Give "
    "it disk, then set the shards that the evidence names to READY, or restart it.",
    evaluate=_evaluate,
)
