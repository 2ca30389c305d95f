"""Leases: whoever holds one keeps renewing it; one that nobody renews was left behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select

from agent_pipelines.health.machine import Machinery, ago, in_time
from agent_pipelines.health.signal import Reading, Signal
from agent_pipelines.state.engine import read
from agent_pipelines.state.leases import is_dead
from agent_pipelines.state.tables import leases

#: Who takes over the work of a killed writer has done so by then: the sensor, after its back-off,
#: or the run that is retried, once its pod has started.
GRACE = timedelta(minutes=15)

#: A holder that slept, with the machine, renews it within a minute.
_PATIENCE = timedelta(minutes=2)


@dataclass(frozen=True)
class Held:
    """A lease that was never given up."""

    name: str
    holder: str
    expires_at: datetime
    gone: bool
    """Whether the holder is a process of this machine that no longer runs."""


def judge(held: Sequence[Held], now: datetime, watched: timedelta) -> Reading:
    """Judge the leases that were not given up, having looked for so long without a gap."""
    left = [lease for lease in held if now - lease.expires_at > GRACE]
    return in_time(
        [
            {
                "lease": lease.name,
                "holder": lease.holder,
                "expired": ago(lease.expires_at, now),
                "its process": "gone" if lease.gone else "may be running, and hang",
            }
            for lease in left
        ],
        watched=watched,
        patience=_PATIENCE,
        fine=f"{len(held)} held",
        said=f"{', '.join(lease.name for lease in left)} left behind",
        expected="every lease that is held is renewed, or taken over by the next run",
    )


def _evaluate(view: Machinery) -> Reading:
    query = select(leases.c.name, leases.c.holder, leases.c.expires_at).where(leases.c.holder != "")
    with read(view.engine) as connection:
        rows = connection.execute(query).all()
    return judge([Held(*row, gone=is_dead(row.holder)) for row in rows], view.now, view.watched)


SIGNAL = Signal(
    name="leases_alive",
    statement="no lease is past its expiry without having been given up or taken over",
    severity="warn",
    depth="tick",
    guards="machinery",
    repair="person",
    runbook="The sync, commit or batch that the lease is named after was killed, or hangs, and "
    "none has followed it. The next one takes the lease over: `agent-pipelines sync INDEX` starts "
    "one. Where the process still runs, end it first; it can no longer write to the ledger. That "
    "none followed by itself has a reason: see `daemon_alive` and `watchers_ticking`.",
    evaluate=_evaluate,
)
