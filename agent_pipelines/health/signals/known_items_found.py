"""The serving path: what the store holds is found when it is searched for."""

from agent_pipelines.health.probes import by_chance, missed
from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View

#: How many of the most recently written documents are searched for, and how many chunks of any
#: age: other ones every time.
_NEWEST, _OTHERS = 5, 15


def _evaluate(view: View) -> Reading:
    ledger = view.index.ledger(view.snapshot.collection)
    ids = {*ledger.sample(newest=_NEWEST), *by_chance(ledger, _OTHERS)}
    if not ids:
        return Reading(State.TRUE, "the index is empty", "nothing to find")
    held = view.index.store.get(view.snapshot.collection, list(ids))
    misses = dict.fromkeys(ids - held.keys(), "the store does not hold it")
    for id_, stored in held.items():
        reason, _ = missed(view, stored, load_model=True)
        if reason is not None:
            misses[id_] = reason
    # A sync may have replaced some meanwhile; of those nothing is expected any more.
    entries = ledger.entries(list(misses))
    evidence = [
        {"chunk": id_, "document": entries[id_].document_id, "fault": reason}
        for id_, reason in misses.items()
        if id_ in entries and entries[id_].state == "present"
    ]
    return Reading(
        State.FALSE if evidence else State.TRUE,
        observed=f"{len(ids) - len(evidence)} of {len(ids)} known items found, {view.serving.name}",
        expected="all of them",
        evidence=evidence,
    )


SIGNAL = Signal(
    name="known_items_found",
    statement="chunks that were written last, and others by chance, are found by their text",
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
