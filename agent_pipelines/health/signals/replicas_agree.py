"""Replicas against each other: chunks in turn, and those retired last, are read from each node.

A read by quorum hides that a node lags, and a search, which asks one node, does not: what it finds
depends on who answers. Counts and ids are those of whichever node was asked.
"""

from time import sleep

from agent_pipelines.health.signal import Reading, Signal, State, holds
from agent_pipelines.health.view import CannotTellError, View
from agent_pipelines.indexing.replicas import differing

#: How many retired chunks are looked for: a node that was away missed deletions as well.
_RETIRED = 200

#: Seconds that a node may be behind with what the others have confirmed.
_BEHIND = 2.0


def _evaluate(view: View) -> Reading:
    store, ledger = view.index.store, view.ledger
    replication = store.replication(view.generation.collection)
    if replication.factor == 1:
        return holds(True, "each object is kept once", "nothing to compare")
    if replication.silent:
        raise CannotTellError(
            f"{replication.silent} replicas cannot be asked; only "
            f"{', '.join(replication.nodes)} answer"
        )
    ids = list(dict.fromkeys([*view.turn.ids, *ledger.retired(newest=_RETIRED)]))
    odd = differing(store, replication, ledger, ids)
    if odd:
        sleep(_BEHIND)
        odd = differing(store, replication, ledger, list(odd))
    if not view.undisturbed:
        raise CannotTellError("a sync or a commit came between")
    view.turn.found("replicas differ", {id_: ", ".join(nodes) for id_, nodes in odd.items()})
    behind = sorted({node for nodes in odd.values() for node in nodes})
    return Reading(
        State.FALSE if odd else State.TRUE,
        observed=f"{len(ids) - len(odd)} of {len(ids)} objects are the same on all of "
        f"{replication.factor} replicas"
        + (f"; not so on {', '.join(behind)}" if behind else "")
        + f" ({view.turn.total} chunks in turn)",
        expected="all of them",
        evidence=[
            {"chunk": id_, "node": node, "fault": fault}
            for id_, nodes in list(odd.items())[:20]
            for node, fault in nodes.items()
        ],
    )


SIGNAL = Signal(
    name="replicas_agree",
    statement="every replica of an object holds the same; all chunks have their turn within a day, "
    "500 per audit at most",
    severity="page",
    depth="audit",
    guards="index",
    repair="verify",
    runbook="A node of Weaviate missed writes while it was away, or was restored by itself; the "
    "evidence names it. What a search finds depends on which node answers. Where asynchronous "
    "replication is on, Weaviate mends this by itself within minutes. `agent-pipelines sync INDEX "
    "--verify` compares the replicas of every chunk and writes again what differs. If it comes "
    "back, look at that node's disk and at ASYNC_REPLICATION_DISABLED.",
    evaluate=_evaluate,
)
