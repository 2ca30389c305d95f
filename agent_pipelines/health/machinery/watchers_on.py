"""Sensors and schedules: one that a person switched off in the UI is easily forgotten."""

from collections.abc import Sequence

from agent_pipelines.health.machine import where_expected
from agent_pipelines.health.orchestration import Watcher
from agent_pipelines.health.signal import Reading, Signal, State


def judge(watchers: Sequence[Watcher]) -> Reading:
    """Judge which are switched on."""
    off = [w for w in watchers if not w.on]
    return Reading(
        State.FALSE if off else State.TRUE,
        observed=f"{', '.join(w.name for w in off)} switched off"
        if off
        else f"{len(watchers)} switched on",
        expected="all of them, but those with `sensor: stopped` in their defs.yaml",
        evidence=[{"watcher": w.name, "kind": w.kind} for w in off],
    )


SIGNAL = Signal(
    name="watchers_on",
    statement="every sensor and schedule that the assets folder wants running is switched on",
    severity="page",
    depth="tick",
    guards="machinery",
    repair="person",
    runbook="Somebody switched a sensor or schedule off in Dagster's UI; its index goes stale from "
    "now on. Switch it on again there (Automation), or, where it is off on purpose, say so in the "
    "index's defs.yaml: `sensor: stopped`.",
    evaluate=where_expected(lambda view: judge(view.watchers)),
)
