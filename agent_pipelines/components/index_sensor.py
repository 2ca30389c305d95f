"""The one sensor of an index: it ticks, reports what it saw, and asks for a sync when needed.

Belongs here: readings → check evaluations and run requests, with back-off. Does not belong here:
evaluating (`health/`) or syncing (`indexing/`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from time import time
from typing import Any

import dagster as dg

from agent_pipelines.components import index_checks
from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.errors import UnavailableError
from agent_pipelines.health.evaluate import evaluate, tick
from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.view import View
from agent_pipelines.indexing import generations, live
from agent_pipelines.indexing.partition import bucket_of
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
    """Runs asked for since one last got anywhere."""
    asked_at: float = 0.0
    reached: str = ""
    """How far the index was when a run was last asked for."""

    def may_ask(self, now: float) -> bool:
        """Whether enough time has passed since the last sync that did not help."""
        wait = min(_BACK_OFF * 2 ** (self.attempts - 1), _BACK_OFF_CAP) if self.attempts else 0
        return now - self.asked_at >= wait


def build(component: ConfiguredIndex, jobs: Sequence[Any]) -> dg.SensorDefinition:
    """The sensor of one index, switched on unless its YAML says otherwise.

    Args:
        component: the index.
        jobs: those that sync and commit it, which the sensor may ask for.
    """
    running = component.config.sensor == "running"

    @dg.sensor(
        name=f"{component.name}_sensor",
        jobs=list(jobs),
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
        for job in jobs:
            filter_ = dg.RunsFilter(job_name=job.name, statuses=_IN_PROGRESS)
            if context.instance.get_runs(filter_, limit=1):
                return dg.SkipReason(f"{job.name} is running")
        cursor = Cursor(**json.loads(context.cursor)) if context.cursor else Cursor()
        try:
            with (
                component.open(weaviate, embedder, state) as index,
                View(index, committed=True) as view,
            ):
                readings = evaluate(view, tick())
                if (reached := _reached(view)) != cursor.reached:
                    # The last run helped, if there was one: what is wanted now was not tried yet.
                    cursor = replace(cursor, attempts=0, reached=reached)
                wanted = _wanted(component, view, readings, cursor.attempts)
                if wanted is None:
                    cursor = replace(cursor, attempts=0)
        except UnavailableError as error:
            # Nothing can be seen: every check says so, and none claims the index to be wrong.
            readings = {
                signal: Reading(State.CANNOT_TELL, error.message, signal.statement)
                for signal in tick()
            }
            # What could not be looked at is not known to be right: a back-off goes on.
            wanted = None
        return _result(component, cursor, readings, wanted)

    return sensor


@dataclass(frozen=True)
class Wanted:
    """Runs that would make the index true again."""

    because: str
    """The signal that asks for them."""
    job: str
    partition_keys: Sequence[str | None] = (None,)
    run_config: Mapping[str, Any] = field(default_factory=dict)


def _reached(view: View) -> str:
    """Changes with every sync that changed something and with every commit."""
    index = view.index
    snapshot = live.latest(index.engine, index.name)
    generation = generations.under(index.engine, index.name, index.spec)
    digest = generation.source_digest if generation else None
    return f"{snapshot.sequence if snapshot else 0} {digest}"


def _wanted(
    component: ConfiguredIndex, view: View, readings: dict[Signal, Reading], attempts: int
) -> Wanted | None:
    """What is to be run, or None."""
    index, keys = view.index, component.partitions
    if generations.is_rejected(index.engine, index.name, index.spec):
        return None  # by whoever rolled back; a sync would be refused
    reason = _reason(view, readings)
    if reason in (None, "fresh", "unfinished_sync") and live.is_pending(index):
        if not keys:
            return Wanted("unfinished_sync", component.job_name)
        # A commit that fails must not keep the syncs from running that would mend it.
        if reason is None or attempts % 2 == 0:
            return Wanted("unfinished_sync", component.live_job_name)
    if reason is None:
        return None
    if not keys:
        return Wanted(reason, component.job_name)
    every = list(keys)
    if reason == "counts_match":
        # An object that says nothing of its partition is missed by none of them.
        config = {"ops": {f"{component.name}__index": {"config": {"verify": True}}}}
        return Wanted(reason, component.job_name, every, config)
    if reason == "fresh":
        changed = {bucket_of(id_) % len(keys) for id_, _ in view.plan.changes()}
        return Wanted(reason, component.job_name, [every[number] for number in sorted(changed)])
    return Wanted(reason, component.job_name, every)


def _reason(view: View, readings: dict[Signal, Reading]) -> str | None:
    """Why a sync is needed, or None. A source that cannot be listed is no reason to sync."""
    false = {signal.name for signal, reading in readings.items() if reading.state is State.FALSE}
    for name in ("alias_points_to_live", "counts_match", "spec_is_current"):
        if name in false:
            return name
    if view.unfinished:
        return "unfinished_sync"
    fresh = next(reading for signal, reading in readings.items() if signal.name == "fresh")
    return "fresh" if fresh.state is not State.CANNOT_TELL and view.plan.changed else None


def _result(
    component: ConfiguredIndex,
    cursor: Cursor,
    readings: dict[Signal, Reading],
    wanted: Wanted | None,
) -> dg.SensorResult:
    now = time()
    states = json.dumps({signal.name: reading.state for signal, reading in readings.items()})
    report = states != cursor.reported or now - cursor.reported_at > _HEARTBEAT
    ask = wanted is not None and cursor.may_ask(now)
    after = Cursor(
        reported=states,
        reported_at=now if report else cursor.reported_at,
        attempts=cursor.attempts + ask,
        asked_at=now if ask else cursor.asked_at,
        reached=cursor.reached,
    )
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                job_name=wanted.job,
                partition_key=key,
                run_config=dict(wanted.run_config),
                tags={
                    "agent-pipelines/signal": wanted.because,
                    "agent-pipelines/attempt": str(after.attempts),
                },
            )
            for key in wanted.partition_keys
        ]
        if ask and wanted
        else [],
        asset_events=list(index_checks.evaluations(component, readings)) if report else [],
        cursor=json.dumps(asdict(after)),
    )
