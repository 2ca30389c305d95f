"""The clock: every age in here is a difference of two of its readings."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select

from agent_pipelines.health.machine import Machinery
from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.state.engine import read
from agent_pipelines.state.tables import listings, signals, snapshots

#: By how much the clocks of two machines that are both right may differ.
SKEW = timedelta(seconds=10)


def judge(moments: Sequence[tuple[str, datetime | None]], now: datetime) -> Reading:
    """Moments by what happened at them; None: it never happened."""
    ahead = [(what, at) for what, at in moments if at is not None and at - now > SKEW]
    newest = max((at for _, at in ahead), default=now)
    return Reading(
        State.FALSE if ahead else State.TRUE,
        observed=f"the newest moment recorded is {(newest - now).total_seconds():.0f} s from now"
        if ahead
        else "nothing recorded lies in the future",
        expected=f"at most {SKEW.total_seconds():.0f} s",
        evidence=[
            {"what": what, "recorded at": f"{at:%Y-%m-%d %H:%M:%S} UTC"} for what, at in ahead
        ],
    )


def _evaluate(view: Machinery) -> Reading:
    kept = {
        "a reading": signals.c.evaluated_at,
        "a snapshot": snapshots.c.committed_at,
        "a listing": listings.c.listed_at,
    }
    with read(view.engine) as connection:
        moments = [
            (what, connection.scalar(select(func.max(column)))) for what, column in kept.items()
        ]
    if view.daemon_expected:
        moments += [(f"a heartbeat of {h.daemon}", h.at) for h in view.heartbeats]
    return judge(moments, view.now)


SIGNAL = Signal(
    name="clock_forward",
    statement="now is not before the newest moment that was recorded",
    severity="warn",
    depth="tick",
    guards="machinery",
    repair="person",
    runbook="This machine's clock went back, or another one that writes the same state runs ahead. "
    "Until it has caught up, staleness and the ages of readings and ticks are understated. See to "
    "the time service (chrony, systemd-timesyncd) of every machine; data is not affected.",
    evaluate=_evaluate,
)
