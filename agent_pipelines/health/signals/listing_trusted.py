"""The listing itself: whether it may be believed, or would take from readers what they should have.

An unmounted folder, a revoked right or a cut-off answer can look like a source that is almost
empty. A sync deletes nothing then, and fails; this says so before the index is stale.
"""

from agent_pipelines.health.signal import Reading, Signal, State, holds
from agent_pipelines.health.view import View
from agent_pipelines.indexing import changes
from agent_pipelines.indexing.plan import mass_deletion


def _evaluate(view: View) -> Reading:
    known, expected = view.changes, "few or acknowledged deletions"
    if not known.deleted:
        return holds(True, f"{known.listed} documents listed, 0 gone", expected)
    gone = [id_ for id_, _ in changes.waiting(view.engine, view.subject, limit=20, deleted=True)]
    doubt = mass_deletion(
        known.deleted,
        gone,
        listed=known.listed,
        indexed=view.index.ledger(view.snapshot.collection).counts().documents,
        max_delete_share=view.index.max_delete_share,
    )
    if doubt is None:
        observed = f"{known.listed} documents listed, {known.deleted} gone"
        return holds(True, observed, expected)
    return Reading(State.FALSE, doubt, expected, evidence=[{"document": id_} for id_ in gone])


SIGNAL = Signal(
    name="listing_trusted",
    statement="the source does not list so much less than before that a sync refuses to delete it",
    severity="page",
    depth="tick",
    guards="live",
    repair="person",
    runbook="Many documents, or all, are suddenly not listed: a mount is gone, a credential or a "
    "right was revoked, or `url`, `include` or the query of the source in defs.yaml changed. "
    "Nothing was deleted, and readers get what they had; syncs fail until it is mended. If the "
    "documents were really deleted, say so: `agent-pipelines sync INDEX --accept-deletions`.",
    evaluate=_evaluate,
)
