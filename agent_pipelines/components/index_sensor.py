"""The one sensor of an index: it ticks, reports what it saw, and asks for a sync when needed.

Belongs here: readings → check evaluations and run requests, with back-off. Does not belong here:
evaluating (`health/`) or syncing (`indexing/`).
"""

import json
from dataclasses import asdict, dataclass
from time import time

import dagster as dg

from agent_pipelines.components import index_checks
from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.errors import UnavailableError
from agent_pipelines.health.evaluate import evaluate, tick
from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View
from resources.embedder import EmbedderResource
from resources.state import StateResource
from resources.weaviate import WeaviateResource

#: Seconds between ticks.
INTERVAL = 30

#: Seconds after which unchanged readings are reported again, so that silence means trouble.
_HEARTBEAT = 600

#: Seconds before a sync is asked for again when the last one did not help: doubled up to a cap.
_BACK_OFF, _BACK_OFF_CAP = 30, 1_800

_IN_PROGRESS = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class Cursor:
    """What the sensor remembers between ticks."""

    reported: str = ""
    """The states that were reported last."""
    reported_at: float = 0.0
    attempts: int = 0
    """Syncs asked for since the index was last right."""
    asked_at: float = 0.0

    def may_ask(self, now: float) -> bool:
        """Whether enough time has passed since the last sync that did not help."""
        wait = min(_BACK_OFF * 2 ** (self.attempts - 1), _BACK_OFF_CAP) if self.attempts else 0
        return now - self.asked_at >= wait


def build(component: ConfiguredIndex) -> dg.SensorDefinition:
    """The sensor of one index, switched on unless its YAML says otherwise."""
    running = component.config.sensor == "running"

    @dg.sensor(
        name=f"{component.name}_sensor",
        job_name=component.job_name,
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING
        if running
        else dg.DefaultSensorStatus.STOPPED,
        description=f"Looks whether index {component.name} is true, and syncs it when it is not.",
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        weaviate: WeaviateResource,
        embedder: EmbedderResource,
        state: StateResource,
    ) -> dg.SensorResult | dg.SkipReason:
        if context.instance.get_runs(
            dg.RunsFilter(job_name=component.job_name, statuses=_IN_PROGRESS), limit=1
        ):
            return dg.SkipReason("a sync is running")
        cursor = Cursor(**json.loads(context.cursor)) if context.cursor else Cursor()
        try:
            with component.open(weaviate, embedder, state) as index:
                view = View(index, committed=True)
                readings = evaluate(view, tick())
        except UnavailableError as error:
            # Nothing can be seen: every check says so, and none claims the index to be wrong.
            readings = {
                signal: Reading(State.CANNOT_TELL, error.message, signal.statement)
                for signal in tick()
            }
            return _result(component, cursor, readings, ask_for=None)
        return _result(component, cursor, readings, ask_for=_reason(view, readings))

    return sensor


def _reason(view: View, readings: dict[Signal, Reading]) -> str | None:
    """What a sync is needed for, or None. A source that cannot be listed is no reason to sync."""
    false = {signal.name for signal, reading in readings.items() if reading.state is State.FALSE}
    for name in ("alias_points_to_live", "counts_match", "spec_is_current"):
        if name in false:
            return name
    if view.unfinished:
        return "unfinished_sync"
    fresh = next(reading for signal, reading in readings.items() if signal.name == "fresh")
    return "fresh" if fresh.state is not State.CANNOT_TELL and view.plan.changes else None


def _result(
    component: ConfiguredIndex,
    cursor: Cursor,
    readings: dict[Signal, Reading],
    *,
    ask_for: str | None,
) -> dg.SensorResult:
    now = time()
    states = json.dumps({signal.name: reading.state for signal, reading in readings.items()})
    report = states != cursor.reported or now - cursor.reported_at > _HEARTBEAT
    ask = ask_for is not None and cursor.may_ask(now)
    after = Cursor(
        reported=states,
        reported_at=now if report else cursor.reported_at,
        attempts=0 if ask_for is None else cursor.attempts + ask,
        asked_at=now if ask else cursor.asked_at,
    )
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                job_name=component.job_name,
                tags={
                    "agent-pipelines/signal": ask_for,
                    "agent-pipelines/attempt": str(after.attempts),
                },
            )
        ]
        if ask and ask_for
        else [],
        asset_events=list(index_checks.evaluations(component, readings)) if report else [],
        cursor=json.dumps(asdict(after)),
    )
