"""The serving path: what was deleted last cannot be read any more."""

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View

#: How many of the ids that were retired last are asked for.
_PROBES = 20


def _evaluate(view: View) -> Reading:
    ledger = view.index.ledger(view.snapshot.collection)
    ids = ledger.retired(newest=_PROBES)
    served = [id_ for id_ in ids if view.serving.fetch(view.subject, id_) is not None]
    # Those that a sync is putting back just now are in the ledger before they are in the store.
    back = ledger.entries(served)
    served = [id_ for id_ in served if id_ not in back]
    return Reading(
        State.FALSE if served else State.TRUE,
        observed=f"{len(served)} of {len(ids)} deleted chunks served, {view.serving.name}",
        expected="none",
        evidence=[{"chunk": id_, "document": ids[id_]} for id_ in served],
    )


SIGNAL = Signal(
    name="deleted_items_not_served",
    statement="chunks that were deleted last cannot be fetched",
    severity="page",
    depth="audit",
    guards="live",
    repair="verify",
    runbook="Deletions did not take effect, or came back with a restart or a restore of Weaviate: "
    "readers are given what the source no longer has. `agent-pipelines sync INDEX --verify` "
    "removes what belongs to no document; if that does not help, see which Weaviate the search "
    "tool server reads.",
    evaluate=_evaluate,
)
