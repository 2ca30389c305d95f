"""What was deleted stays deleted: chunks that were retired last are neither stored nor found.

Weaviate has brought deleted objects back after a restart. `counts_match` sees how many objects
there are; this is what readers get of those that should not be.
"""

import numpy as np

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View
from agent_pipelines.indexing.store import Filter

#: How many retired chunks are looked for, and hits among which they must not be.
_NEWEST, _HITS = 200, 200


def _evaluate(view: View) -> Reading:
    store, collection = view.index.store, view.generation.collection
    retired = view.ledger.retired(newest=_NEWEST)
    stored = set(store.get(collection, list(retired)))
    found: set[str] = set()
    if retired:
        # Whatever the vector: the filter leaves what is of these documents, by another way than
        # their ids.
        anywhere = np.full(
            view.generation.embedder.dimension,
            view.generation.embedder.dimension**-0.5,
            np.float32,
        )
        of_them = Filter("document_id", tuple(sorted(set(retired.values()))))
        hits = store.search(collection, "", anywhere, limit=_HITS, filters=[of_them], alpha=1)
        found = {chunk.id for chunk, _ in hits} & retired.keys()
    back = sorted(stored | found)
    return Reading(
        State.FALSE if back else State.TRUE,
        observed=f"{len(back)} of the {len(retired)} chunks retired last are there",
        expected="none",
        evidence=[
            {
                "chunk": id_,
                "document": retired[id_],
                "fault": " and ".join(
                    [*(["stored"] if id_ in stored else []), *(["found"] if id_ in found else [])]
                ),
            }
            for id_ in back[:20]
        ],
    )


SIGNAL = Signal(
    name="deleted_items_gone",
    statement="the chunks that were deleted last are not in the store, and no search returns them",
    severity="page",
    depth="audit",
    guards="live",
    repair="verify",
    runbook="Agents are given text that is no longer in the source: objects came back after a "
    "restart of Weaviate, or something wrote them again. `agent-pipelines sync INDEX --verify` "
    "deletes what the ledger does not have.",
    evaluate=_evaluate,
)
