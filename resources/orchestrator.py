"""Dagster's instance behind the `Orchestrator` protocol: read from outside, with no daemon's help.

Belongs here: which sensors and schedules the definitions want, and what the instance's database
knows of them, of the daemons and of the runs. Does not belong here: what is too late or too long.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from agent_pipelines.health.orchestration import GRACE, Heartbeat, Run, Waiting, Watcher
from agent_pipelines.state.leases import is_dead

if TYPE_CHECKING:
    from dagster._core.scheduler.instigation import InstigatorState

#: The tag of a run that a command runs in its own process: which process that is.
PROCESS_TAG = "agent-pipelines/process"

#: Dagster's own interval of heartbeats; it cannot be configured.
_HEARTBEAT_EVERY = timedelta(seconds=30)

#: A run in one of these has been given to the launcher.
_LAUNCHED = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

#: Ticks that are looked at for failures in a row.
_NEWEST_TICKS = 3

Kind = Literal["sensor", "schedule"]


@dataclass(frozen=True)
class Wanted:
    """A sensor or schedule that its definition switches on."""

    name: str
    kind: Kind
    every: timedelta = timedelta(seconds=30)
    """Of a sensor."""
    cron: str | Sequence[str] = ""
    """Of a schedule."""
    timezone: str = "UTC"

    def due(self, now: datetime) -> datetime:
        """The latest moment that its last tick may not be older than, now."""
        from dagster._utils.schedules import schedule_execution_time_iterator

        if self.kind == "sensor":
            return now - self.every - GRACE
        by = (now - GRACE).timestamp()
        past = schedule_execution_time_iterator(by, self.cron, self.timezone, ascending=False)
        # Where `by` is such a moment itself, or its minute has just begun, the first may lie ahead.
        return next(at for at in past if at.timestamp() <= by).astimezone(UTC)


def wanted(definitions: dg.Definitions) -> list[Wanted]:
    """Every sensor and schedule that starts switched on."""
    found = [
        Wanted(
            sensor.name,
            "sensor",
            every=timedelta(seconds=sensor.minimum_interval_seconds or 30),
        )
        for sensor in definitions.sensors or ()
        if sensor.default_status is dg.DefaultSensorStatus.RUNNING
    ]
    for schedule in definitions.schedules or ():
        if not isinstance(schedule, dg.ScheduleDefinition):
            continue  # made of a job's partitions, in somebody's Python: it has no cron yet
        if schedule.default_status is dg.DefaultScheduleStatus.RUNNING:
            zone = schedule.execution_timezone or "UTC"
            cron = schedule.cron_schedule
            found.append(Wanted(schedule.name, "schedule", cron=cron, timezone=zone))
    return found


@contextmanager
def open_orchestrator(home: Path, watchers: Sequence[Wanted]) -> Iterator["DagsterOrchestrator"]:
    """The instance of this DAGSTER_HOME, for as long as the block lasts."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield DagsterOrchestrator(instance, watchers)


class DagsterOrchestrator:
    """Implements `Orchestrator`. Everything it raises is Dagster's or its database's own error."""

    def __init__(self, instance: dg.DagsterInstance, wanted: Sequence[Wanted]) -> None:
        self._instance = instance
        self._wanted = wanted

    def heartbeats(self) -> Sequence[Heartbeat]:
        return [
            Heartbeat(
                daemon,
                _moment(status.last_heartbeat.timestamp) if status.last_heartbeat else None,
                _HEARTBEAT_EVERY,
                tuple(
                    _first_line(error.message)
                    for error in (status.last_heartbeat and status.last_heartbeat.errors) or ()
                ),
            )
            for daemon, status in self._instance.get_daemon_statuses().items()
        ]

    def watchers(self, now: datetime) -> Sequence[Watcher]:
        known: dict[tuple[str, str], Any] = {}
        for state in self._instance.all_instigator_state():
            key = (state.instigator_type.value.lower(), state.instigator_name)
            # A code location that was renamed leaves its states behind.
            if key not in known or _active(state) > _active(known[key]):
                known[key] = state
        return [self._watcher(one, known.get((one.kind, one.name)), now) for one in self._wanted]

    def _watcher(self, one: Wanted, state: "InstigatorState | None", now: datetime) -> Watcher:
        if state is None:
            return Watcher(one.name, one.kind, True, one.due(now), since=None, ticked=None)
        ticks = self._ticks(state)
        failed = next((n for n, tick in enumerate(ticks) if not _failed(tick)), len(ticks))
        data: Any = state.instigator_data
        ticked = _active(state)
        if one.kind == "schedule" and ticks:
            ticked = max(ticked, ticks[0].timestamp)
        started = getattr(
            data, "last_sensor_start_timestamp" if one.kind == "sensor" else "start_timestamp", None
        )
        return Watcher(
            one.name,
            one.kind,
            on=state.is_running,
            due=one.due(now),
            since=_moment(started) if started else None,
            ticked=_moment(ticked) if ticked else None,
            failures=failed,
            error=_first_line(ticks[0].error.message) if failed and ticks[0].error else "",
        )

    def _ticks(self, state: "InstigatorState") -> Sequence[Any]:
        """The newest ticks that have ended, newest first."""
        from dagster._core.scheduler.instigation import TickStatus

        ended = [TickStatus.SKIPPED, TickStatus.SUCCESS, TickStatus.FAILURE]
        return self._instance.get_ticks(
            state.instigator_origin_id, state.selector_id, limit=_NEWEST_TICKS, statuses=ended
        )

    def runs(self) -> Sequence[Run]:
        from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

        records = self._instance.get_run_records(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
        return [self._run(record) for record in records]

    def _run(self, record: dg.RunRecord) -> Run:
        run = record.dagster_run
        last = self._instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
        created = record.create_timestamp.replace(tzinfo=record.create_timestamp.tzinfo or UTC)
        process = run.tags.get(PROCESS_TAG)
        return Run(
            run.run_id,
            run.job_name,
            "queued" if run.status is dg.DagsterRunStatus.QUEUED else "running",
            created=created,
            last_event=_moment(last[0].timestamp) if last else created,
            attended=None if process is None else not is_dead(process),
        )

    def waiting(self) -> Sequence[Waiting]:
        from resources import kubernetes

        launcher = kubernetes.launcher_of(self._instance)
        if launcher is None:
            return []
        runs = self._instance.get_runs(dg.RunsFilter(statuses=_LAUNCHED))
        return kubernetes.waiting(launcher, runs) if runs else []


def _active(state: "InstigatorState") -> float:
    """When Dagster last did something for it, in seconds; 0 if never."""
    names = ("last_tick_start_timestamp", "last_tick_timestamp", "last_iteration_timestamp")
    return max((getattr(state.instigator_data, name, None) or 0.0 for name in names), default=0.0)


def _failed(tick: Any) -> bool:
    from dagster._core.scheduler.instigation import TickStatus

    return bool(tick.status is TickStatus.FAILURE)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0][:300]
