"""Staleness: the age of the oldest source change that readers do not get yet."""

from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View
from agent_pipelines.indexing import changes


def _evaluate(view: View) -> Reading:
    known = view.changes
    staleness = max(0.0, (view.now - known.since).total_seconds()) if known.since else 0.0
    listed = ""
    if known.listed_at is not None and known.listed_at < view.now:
        listed = f", listed {(view.now - known.listed_at).total_seconds():.0f} s ago"
    bound = view.index.max_staleness_seconds
    return Reading(
        State.TRUE if staleness <= bound else State.FALSE,
        observed=f"{staleness:.0f} s, {known.count} changes not live{listed}",
        expected=f"at most {bound:.0f} s",
        evidence=[
            {"document": id_, "change": "deleted" if deleted else "new or changed"}
            for id_, deleted in changes.waiting(view.engine, view.subject, limit=20)
        ],
    )


SIGNAL = Signal(
    name="fresh",
    statement="no source change has been waiting longer than max_staleness to become live",
    severity="page",
    depth="tick",
    guards="live",
    repair="sync",
    runbook="Syncs are failing or not running. Look at the index's last sync run and at the "
    "sensor; `agent-pipelines sync INDEX` runs one now.",
    evaluate=_evaluate,
)
