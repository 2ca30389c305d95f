"""Sensors and schedules: switched on is not yet at work."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from agent_pipelines.health.machine import ago, in_time, where_expected
from agent_pipelines.health.orchestration import GRACE, Watcher
from agent_pipelines.health.signal import Reading, Signal

#: A daemon that has just started catches up with whatever is overdue within this time.
_PATIENCE = timedelta(seconds=30) + GRACE


def judge(watchers: Sequence[Watcher], now: datetime, watched: timedelta) -> Reading:
    """Judge the ticks as they are after having looked for so long without a gap."""
    on = [w for w in watchers if w.on]  # of the others `watchers_on` tells
    late = [w for w in on if not _in_time(w)]
    return in_time(
        [
            {
                "watcher": w.name,
                "kind": w.kind,
                "last tick": ago(w.ticked, now),
                "due": ago(w.due, now),
            }
            for w in late
        ],
        watched=watched,
        patience=_PATIENCE,
        fine=f"{len(on)} ticking",
        said=f"no tick in time of {', '.join(w.name for w in late)}",
        expected="a tick of each since its last one was due",
    )


def _in_time(watcher: Watcher) -> bool:
    """Whether it ticked, or was switched on only, since it was due."""
    return any(moment and moment >= watcher.due for moment in (watcher.ticked, watcher.since))


SIGNAL = Signal(
    name="watchers_ticking",
    statement="every sensor and schedule that is switched on has ticked when it last should have",
    severity="page",
    depth="tick",
    guards="machinery",
    repair="person",
    runbook="Dagster does not evaluate a sensor or schedule that is switched on: its daemon is "
    "dead (see `daemon_alive`), the code location cannot be loaded, or was not loaded again since "
    "the assets folder changed. In the UI under Deployment: reload the code location and read its "
    "error; then look at the ticks of the watcher named here.",
    evaluate=where_expected(lambda view: judge(view.watchers, view.now, view.watched)),
)
