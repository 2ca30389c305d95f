"""Dagster's daemons: without them no sensor and no schedule ticks, and nothing says so."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from agent_pipelines.health.machine import ago, in_time, where_expected
from agent_pipelines.health.orchestration import GRACE, Heartbeat
from agent_pipelines.health.signal import Reading, Signal


def judge(heartbeats: Sequence[Heartbeat], now: datetime, watched: timedelta) -> Reading:
    """Judge the heartbeats as they are after having looked for so long without a gap."""
    late = [h for h in heartbeats if h.at is None or now - h.at > h.every + GRACE]
    return in_time(
        [
            {"daemon": h.daemon, "heartbeat": ago(h.at, now), "errors": "; ".join(h.errors)}
            for h in late
        ],
        watched=watched,
        patience=max((h.every + GRACE for h in late), default=GRACE),
        fine=f"{len(heartbeats)} daemons alive",
        said=f"no sign of life from {', '.join(h.daemon for h in late)}",
        expected=f"one from each, at most {GRACE.total_seconds():.0f} s late",
    )


SIGNAL = Signal(
    name="daemon_alive",
    statement="every daemon that this Dagster instance needs has given a sign of life in time",
    severity="page",
    depth="tick",
    guards="machinery",
    repair="person",
    runbook="A daemon of Dagster's is dead, hangs, or cannot write its database: sensors and "
    "schedules do not tick, so no index is synced, and no check in Dagster can say so. Look at "
    "its log and restart it: in a cluster the daemon's pod; on one machine end `agent-pipelines "
    "dev` and start it again.",
    evaluate=where_expected(lambda view: judge(view.heartbeats, view.now, view.watched)),
)
