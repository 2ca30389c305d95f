"""The one sensor of an index: it ticks, reports what it saw, and asks for the run that helps.

Belongs here: readings → check evaluations, what is wanted → run requests. Does not belong here:
evaluating (`health/`), deciding what is wanted (`health/repair.py`) or syncing (`indexing/`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from time import time
from typing import Any

import dagster as dg

from agent_pipelines.components import index_checks
from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.errors import UnavailableError
from agent_pipelines.health import repair
from agent_pipelines.health.evaluate import evaluate, recorded, tick
from agent_pipelines.health.repair import Seen, Want
from agent_pipelines.health.signal import Reading, Signal, State, cannot_tell
from agent_pipelines.health.view import View
from agent_pipelines.indexing import changes, generations, live
from agent_pipelines.indexing.partition import bucket_of
from resources.embedder import EmbedderResource
from resources.state import StateResource
from resources.weaviate import WeaviateResource

#: Seconds between ticks.
INTERVAL = 30

#: Seconds after which unchanged readings are reported again, so that silence means trouble.
_HEARTBEAT = 600

#: The tag of a run that names the signal it is to make true again.
SIGNAL_TAG = "agent-pipelines/signal"

#: Statuses of runs that have not ended.
IN_PROGRESS = [
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


def build(
    component: ConfiguredIndex, jobs: Sequence[Any], audit: Any, listing: Any
) -> dg.SensorDefinition:
    """The sensor of one index, switched on unless its YAML says otherwise.

    Args:
        component: the index.
        jobs: those that sync and commit it, which the sensor may ask for.
        audit: the one that audits it, which it may ask for too.
        listing: the one that lists its source, which it asks for where that takes long.
    """
    running = component.config.sensor == "running"

    @dg.sensor(
        name=f"{component.name}_sensor",
        jobs=[*jobs, audit, listing],
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING
        if running
        else dg.DefaultSensorStatus.STOPPED,
        description=f"Looks whether index {component.name} is true, and asks for the run that "
        "makes it so when it is not.",
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        weaviate: WeaviateResource,
        embedder: EmbedderResource,
        state: StateResource,
    ) -> dg.SensorResult | dg.SkipReason:
        for job in jobs:
            if _runs(context.instance, job.name, IN_PROGRESS):
                return dg.SkipReason(f"{job.name} is running")
        requests: Sequence[dg.RunRequest] = []
        try:
            with (
                component.open(weaviate, embedder, state) as index,
                View(index, committed=True) as view,
            ):
                readings = evaluate(view, tick())
                last_run = _last_run(context.instance, [job.name for job in jobs])
                requests = _requests(component, view, readings, last_run)
        except UnavailableError as error:
            # Nothing can be seen: every check says so, and none claims the index to be wrong. What
            # could not be looked at is not known to be right either: a back-off goes on.
            readings = cannot_tell(tick(), error.message)
        # Looking once more tells no more than what is under way.
        requests = [
            request
            for request in requests
            if not any(
                request.job_name == job.name and _runs(context.instance, job.name, IN_PROGRESS)
                for job in (audit, listing)
            )
        ]
        return _result(component, context.cursor, readings, requests)

    return sensor


def _runs(
    instance: dg.DagsterInstance, job_name: str, statuses: Sequence[dg.DagsterRunStatus] = ()
) -> Sequence[dg.RunRecord]:
    """The newest run of a job, if there is any."""
    filter_ = dg.RunsFilter(job_name=job_name, statuses=list(statuses))
    return instance.get_run_records(filter_, limit=1)


def _last_run(instance: dg.DagsterInstance, job_names: Sequence[str]) -> datetime | None:
    """When the newest run of these jobs began."""
    newest = [record for name in job_names for record in _runs(instance, name)]
    return max((record.create_timestamp.astimezone(UTC) for record in newest), default=None)


def _requests(
    component: ConfiguredIndex,
    view: View,
    readings: dict[Signal, Reading],
    last_run: datetime | None,
) -> Sequence[dg.RunRequest]:
    """The runs to ask for, on record as an attempt."""
    index, now = view.index, datetime.fromtimestamp(time(), UTC)
    if generations.is_rejected(index.engine, index.name, index.spec):
        return []  # by whoever rolled back; a sync would be refused
    fresh = next(reading for signal, reading in readings.items() if signal.name == "fresh")
    seen = Seen(
        readings=readings,
        recorded=recorded(index.engine, index.name),
        unfinished=view.unfinished,
        pending=live.is_pending(index),
        # A source that cannot be listed is no reason to sync.
        changed=fresh.state is not State.CANNOT_TELL and view.changes.count > 0,
        split=bool(component.partitions),
        last_run=last_run,
        reached=_reached(view),
    )
    tried = repair.attempts(index.engine, index.name)
    want = repair.wanted(seen, tried, now)
    this = repair.asked(seen, tried, want, now) if want else None
    repair.remember(index.engine, index.name, now=this, over=repair.over(seen, tried))
    if want is None or this is None:
        # Any run that mends lists the source as well.
        return [dg.RunRequest(job_name=component.listing_job_name)] if view.wants_listing else []
    job, config = _job(component, want)
    return [
        dg.RunRequest(
            job_name=job,
            partition_key=key,
            run_config=config,
            tags={
                SIGNAL_TAG: want.because,
                "agent-pipelines/attempt": str(this.attempts),
            },
        )
        for key in _partition_keys(component, view, want)
    ]


def _reached(view: View) -> str:
    """Changes with every sync that changed something and with every commit."""
    index = view.index
    snapshot = live.latest(index.engine, index.name)
    generation = generations.under(index.engine, index.name, index.spec)
    digest = generation.source_digest if generation else None
    return f"{snapshot.sequence if snapshot else 0} {digest}"


def _job(component: ConfiguredIndex, want: Want) -> tuple[str, dict[str, Any]]:
    if want.kind == "audit":
        return component.audit_job_name, {}
    if want.kind == "commit":
        return component.live_job_name, {}
    verify = {"ops": {f"{component.name}__index": {"config": {"verify": True}}}}
    return component.job_name, verify if want.kind == "verify" else {}


def _partition_keys(component: ConfiguredIndex, view: View, want: Want) -> Sequence[str | None]:
    every = list(component.partitions)
    if not every or want.kind in ("audit", "commit"):
        return [None]
    if want.because == "fresh":
        waiting = changes.waiting(view.engine, view.subject)
        changed = {bucket_of(id_) % len(every) for id_, _ in waiting}
        return [every[number] for number in sorted(changed)]
    # An object that says nothing of its partition is missed by none of them.
    return every


def _result(
    component: ConfiguredIndex,
    remembered: str | None,
    readings: dict[Signal, Reading],
    requests: Sequence[dg.RunRequest],
) -> dg.SensorResult:
    now = time()
    values = json.loads(remembered) if remembered else {}
    cursor = Cursor(values.get("reported", ""), values.get("reported_at", 0.0))
    states = json.dumps({signal.name: reading.state for signal, reading in readings.items()})
    report = states != cursor.reported or now - cursor.reported_at > _HEARTBEAT
    after = Cursor(states, now if report else cursor.reported_at)
    return dg.SensorResult(
        run_requests=list(requests),
        asset_events=list(index_checks.evaluations(component, readings)) if report else [],
        cursor=json.dumps(asdict(after)),
    )
