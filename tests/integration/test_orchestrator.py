"""What a real Dagster instance tells of its daemons, sensors, schedules and runs."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RemoteJobOrigin
from dagster._core.scheduler.instigation import (
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickStatus,
)
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import SerializableErrorInfo

from agent_pipelines.health.machinery import watchers_on, watchers_ticking
from agent_pipelines.health.orchestration import GRACE, Watcher
from agent_pipelines.health.signal import State
from agent_pipelines.local import dagster_home
from agent_pipelines.state.leases import this_process
from resources.orchestrator import PROCESS_TAG, DagsterOrchestrator, Wanted, wanted
from tests.daemon import knows, origin, ticked

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


@dg.job
def work() -> None:
    pass


@dg.sensor(job=work, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def looks() -> None:
    pass


@dg.sensor(job=work)
def sleeps() -> None:
    pass


@dg.schedule(
    job=work,
    cron_schedule="0 * * * *",
    execution_timezone="Europe/Berlin",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def hourly() -> None:
    pass


WANTED = wanted(dg.Definitions(jobs=[work], sensors=[looks, sleeps], schedules=[hourly]))


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dagster_home.instance(tmp_path) as opened:
        yield opened


def watchers(instance: dg.DagsterInstance, now: datetime) -> dict[str, Watcher]:
    found = DagsterOrchestrator(instance, WANTED).watchers(now)
    return {watcher.name: watcher for watcher in found}


def test_only_what_starts_switched_on_is_wanted() -> None:
    assert {(one.name, one.kind) for one in WANTED} == {("looks", "sensor"), ("hourly", "schedule")}


@pytest.mark.parametrize(
    ("at", "due"),
    [("12:30", "12:00"), ("12:03", "12:00"), ("12:01", "11:00"), ("12:02", "12:00")],
)
def test_a_schedule_is_due_at_its_last_time_that_it_had_time_to_tick_at(at: str, due: str) -> None:
    def moment(text: str) -> datetime:
        return datetime.fromisoformat(f"2026-11-23T{text}:00+00:00")

    assert Wanted("s", "schedule", cron="0 * * * *").due(moment(at)) == moment(due)


def test_a_cron_expression_is_read_in_its_time_zone() -> None:
    berlin = Wanted("s", "schedule", cron="30 6 * * *", timezone="Europe/Berlin")
    due = berlin.due(datetime(2026, 11, 23, 12, tzinfo=UTC))
    assert due == datetime(2026, 11, 23, 5, 30, tzinfo=UTC)


def test_an_instance_that_no_daemon_ever_used(instance: dg.DagsterInstance) -> None:
    asked = DagsterOrchestrator(instance, WANTED)
    assert {(beat.daemon, beat.at) for beat in asked.heartbeats()} >= {
        ("SENSOR", None),
        ("SCHEDULER", None),
    }
    assert all(w.on and w.since is None for w in asked.watchers(datetime.now(UTC)))
    assert asked.runs() == []


def test_heartbeats_with_their_errors(instance: dg.DagsterInstance) -> None:
    now = datetime.now(UTC)
    error = SerializableErrorInfo("cannot load the code location\n...", [], "Error")
    instance.add_daemon_heartbeat(DaemonHeartbeat(now.timestamp(), "SENSOR", "id", [error]))
    beats = {beat.daemon: beat for beat in DagsterOrchestrator(instance, WANTED).heartbeats()}
    assert beats["SENSOR"].at == now
    assert beats["SENSOR"].errors == ("cannot load the code location",)


def test_a_sensor_that_ticks(instance: dg.DagsterInstance) -> None:
    now = datetime.now(UTC)
    started = (now - 20 * SECOND).timestamp()
    data = SensorInstigatorData(
        last_tick_start_timestamp=started, last_sensor_start_timestamp=started - 99
    )
    state = knows(instance, InstigatorType.SENSOR, "looks", data)
    ticked(instance, state, now - 80 * SECOND, TickStatus.SKIPPED)
    for seconds in (60, 40):
        ticked(instance, state, now - seconds * SECOND, TickStatus.FAILURE)
    ticked(instance, state, now - 20 * SECOND, TickStatus.STARTED)
    seen = watchers(instance, now)["looks"]
    assert (seen.on, seen.ticked) == (True, now - 20 * SECOND)
    assert seen.due == now - 30 * SECOND - GRACE
    assert (seen.failures, seen.error) == (2, "no module named docs")


def test_a_sensor_that_was_switched_off(instance: dg.DagsterInstance) -> None:
    data = SensorInstigatorData(last_tick_start_timestamp=datetime.now(UTC).timestamp())
    knows(instance, InstigatorType.SENSOR, "looks", data, InstigatorStatus.STOPPED)
    reading = watchers_on.judge(DagsterOrchestrator(instance, WANTED).watchers(datetime.now(UTC)))
    assert reading.state is State.FALSE
    assert [row["watcher"] for row in reading.evidence] == ["looks"]


def test_a_code_location_that_was_renamed_leaves_a_state_that_counts_no_more(
    instance: dg.DagsterInstance,
) -> None:
    now = datetime.now(UTC)
    for location, age, status in (
        ("new", 0 * SECOND, InstigatorStatus.DECLARED_IN_CODE),
        ("old", timedelta(days=1), InstigatorStatus.STOPPED),
    ):
        data = SensorInstigatorData(last_tick_start_timestamp=(now - age).timestamp())
        knows(instance, InstigatorType.SENSOR, "looks", data, status, location)
    assert watchers(instance, now)["looks"].on


def test_a_schedule_ticks_at_the_time_it_is_for(instance: dg.DagsterInstance) -> None:
    now = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
    data = ScheduleInstigatorData("0 * * * *", (now - timedelta(days=1)).timestamp())
    state = knows(instance, InstigatorType.SCHEDULE, "hourly", data)

    def state_of_ticking() -> State:
        seen = watchers(instance, now)["hourly"]
        return watchers_ticking.judge([seen], now, timedelta(days=1)).state

    ticked(instance, state, now.replace(hour=11, minute=0), TickStatus.SUCCESS)
    assert state_of_ticking() is State.FALSE
    ticked(instance, state, now.replace(hour=12, minute=0), TickStatus.SUCCESS)
    assert state_of_ticking() is State.TRUE


def test_runs_that_have_not_ended(instance: dg.DagsterInstance) -> None:
    done = work.execute_in_process(instance=instance)
    queued = instance.create_run_for_job(
        work,
        status=dg.DagsterRunStatus.QUEUED,
        remote_job_origin=RemoteJobOrigin(origin("work").repository_origin, "work"),
    )
    launched = instance.create_run_for_job(work, status=dg.DagsterRunStatus.STARTED)
    instance.report_engine_event("still at it", launched)
    here = instance.create_run_for_job(
        work, status=dg.DagsterRunStatus.STARTED, tags={PROCESS_TAG: this_process()}
    )
    gone = instance.create_run_for_job(
        work,
        status=dg.DagsterRunStatus.STARTED,
        tags={PROCESS_TAG: this_process().replace(" started ", " started 1")},
    )
    runs = {run.id: run for run in DagsterOrchestrator(instance, WANTED).runs()}
    assert done.run_id not in runs
    assert {run.id: (run.state, run.attended) for run in runs.values()} == {
        queued.run_id: ("queued", None),
        launched.run_id: ("running", None),
        here.run_id: ("running", True),
        gone.run_id: ("running", False),
    }
    assert runs[launched.run_id].created <= runs[launched.run_id].last_event
    assert abs(runs[launched.run_id].created - datetime.now(UTC)) < MINUTE, "in the right zone"


def test_where_runs_are_processes_none_waits_for_a_pod(instance: dg.DagsterInstance) -> None:
    instance.create_run_for_job(work, status=dg.DagsterRunStatus.STARTING)
    assert DagsterOrchestrator(instance, WANTED).waiting() == []
