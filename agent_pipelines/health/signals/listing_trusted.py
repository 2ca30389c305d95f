"""The listing itself: whether it may be believed, or would take from readers what they should have.

An unmounted folder, a revoked right or a cut-off answer can look like a source that is almost
empty. A sync deletes nothing then, and fails; this says so before the index is stale.
"""

from agent_pipelines.health.signal import Reading, Signal, State, holds
from agent_pipelines.health.view import View
from agent_pipelines.indexing.plan import DoubtfulListingError, refuse_mass_deletion


def _evaluate(view: View) -> Reading:
    plan = view.plan
    expected = "few or acknowledged deletions"
    try:
        refuse_mass_deletion(plan, max_delete_share=view.index.max_delete_share)
    except DoubtfulListingError as doubt:
        return Reading(
            State.FALSE,
            observed=str(doubt),
            expected=expected,
            evidence=[{"document": id_} for id_, _ in zip(plan.delete(), range(20), strict=False)],
        )
    return holds(True, f"{plan.listed} documents listed, {plan.deletions} gone", expected)


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
