"""Sensors and schedules: a tick that fails has looked at nothing."""

from collections.abc import Sequence

from agent_pipelines.health.machine import where_expected
from agent_pipelines.health.orchestration import Watcher
from agent_pipelines.health.signal import Reading, Signal, State

#: Failures in a row that are no accident. A code location that is just loaded again costs a sensor
#: one or two; a schedule ticks seldom.
TOO_MANY = {"sensor": 3, "schedule": 2}


def judge(watchers: Sequence[Watcher]) -> Reading:
    """Judge how many of their newest ticks failed."""
    failing = [w for w in watchers if w.on and w.failures >= TOO_MANY[w.kind]]
    return Reading(
        State.FALSE if failing else State.TRUE,
        observed=f"every one of the last ticks of {', '.join(w.name for w in failing)} failed"
        if failing
        else "no watcher keeps failing",
        expected=f"fewer than {TOO_MANY['sensor']} failed ticks in a row of a sensor, "
        f"{TOO_MANY['schedule']} of a schedule",
        evidence=[{"watcher": w.name, "kind": w.kind, "error": w.error} for w in failing],
    )


SIGNAL = Signal(
    name="watchers_succeed",
    statement="no sensor or schedule fails at tick after tick",
    severity="page",
    depth="tick",
    guards="machinery",
    repair="person",
    runbook="A sensor or schedule is evaluated and fails every time, so that its index is neither "
    "looked at nor synced. The evidence holds its last error; the whole of it is in Dagster's UI, "
    "at the ticks of that watcher.",
    evaluate=where_expected(lambda view: judge(view.watchers)),
)
