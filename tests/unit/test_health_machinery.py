"""Each signal of the machinery: what makes it false, and what a healthy day looks like to it."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, insert, text

from agent_pipelines.errors import UnavailableError
from agent_pipelines.health.evaluate import look
from agent_pipelines.health.machine import ALWAYS, Machinery, Memory
from agent_pipelines.health.machinery import (
    catalogue,
    clock_forward,
    daemon_alive,
    disk_writable,
    leases_alive,
    runs_progress,
    runs_scheduled,
    watchers_on,
    watchers_succeed,
    watchers_ticking,
)
from agent_pipelines.health.orchestration import GRACE, Heartbeat, Run, Waiting, Watcher
from agent_pipelines.health.signal import Reading, State
from agent_pipelines.state import leases
from agent_pipelines.state.engine import open_engine, write
from agent_pipelines.state.tables import leases as lease_table

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = (timedelta(**{u: 1}) for u in ("seconds", "minutes", "hours", "days"))
LONG = 30 * DAY
TRUE, FALSE, CANNOT_TELL = State.TRUE, State.FALSE, State.CANNOT_TELL


def heartbeat(age: timedelta | None) -> Heartbeat:
    return Heartbeat("SENSOR", None if age is None else NOW - age, 30 * SECOND)


@pytest.mark.parametrize(
    ("age", "watched", "state"),
    [
        (5 * SECOND, LONG, TRUE),
        (30 * SECOND + GRACE, LONG, TRUE),
        (31 * SECOND + GRACE, LONG, FALSE),
        (None, LONG, FALSE),
        # The exporter came up before the daemon, or woke up beside it.
        (None, 10 * SECOND, CANNOT_TELL),
        (8 * HOUR, 10 * SECOND, CANNOT_TELL),
        (8 * HOUR, 30 * SECOND + GRACE, FALSE),
        # A clock that went back is another signal's matter.
        (-HOUR, LONG, TRUE),
    ],
)
def test_daemon_alive(age: timedelta | None, watched: timedelta, state: State) -> None:
    beats = [heartbeat(SECOND), heartbeat(age)]
    assert daemon_alive.judge(beats, NOW, watched).state is state


def test_who_looks_again_after_a_gap_begins_anew() -> None:
    memory = Memory()
    for seconds, since in ((0, 0), (30, 0), (119, 0), (210, 210), (240, 210), (100, 100)):
        memory.look(NOW + seconds * SECOND, longest=90 * SECOND)
        assert memory.since == NOW + since * SECOND


def watcher(**changes: Any) -> Watcher:
    """A sensor that ticked ten seconds ago."""
    values = {
        "name": "docs_sensor",
        "kind": "sensor",
        "on": True,
        "due": NOW - 150 * SECOND,
        "since": NOW - DAY,
        "ticked": NOW - 10 * SECOND,
        **changes,
    }
    return Watcher(**values)


NEVER_SEEN = {"since": None, "ticked": None}
OFF_FOR_LONG = {"on": False, "ticked": NOW - DAY}


@pytest.mark.parametrize(
    ("changes", "state"),
    [({}, TRUE), (NEVER_SEEN, TRUE), (OFF_FOR_LONG, FALSE)],
)
def test_watchers_on(changes: dict[str, Any], state: State) -> None:
    reading = watchers_on.judge([watcher(name="other"), watcher(**changes)])
    assert reading.state is state
    assert [row["watcher"] for row in reading.evidence] == ["docs_sensor"] * (state is FALSE)


@pytest.mark.parametrize(
    ("changes", "watched", "state"),
    [
        ({}, LONG, TRUE),
        ({"ticked": NOW - HOUR}, LONG, FALSE),
        # Just switched on, or just started.
        ({"ticked": NOW - DAY, "since": NOW - MINUTE}, LONG, TRUE),
        ({"ticked": None, "since": NOW - MINUTE}, LONG, TRUE),
        # Dagster has never heard of it: its code location may still be loading.
        (NEVER_SEEN, MINUTE, CANNOT_TELL),
        (NEVER_SEEN, LONG, FALSE),
        # An hourly schedule at half past.
        ({"kind": "schedule", "due": NOW - 30 * MINUTE, "ticked": NOW - 30 * MINUTE}, LONG, TRUE),
        ({"kind": "schedule", "due": NOW - 30 * MINUTE, "ticked": NOW - 90 * MINUTE}, LONG, FALSE),
        # A laptop that slept over it: Dagster catches up.
        (
            {"kind": "schedule", "due": NOW - 30 * MINUTE, "ticked": NOW - 90 * MINUTE},
            5 * SECOND,
            CANNOT_TELL,
        ),
        (OFF_FOR_LONG, LONG, TRUE),
    ],
)
def test_watchers_ticking(changes: dict[str, Any], watched: timedelta, state: State) -> None:
    assert watchers_ticking.judge([watcher(**changes)], NOW, watched).state is state


@pytest.mark.parametrize(
    ("kind", "failures", "state"),
    [
        ("sensor", 0, TRUE),
        ("sensor", 2, TRUE),
        ("sensor", 3, FALSE),
        ("schedule", 1, TRUE),
        ("schedule", 2, FALSE),
    ],
)
def test_watchers_succeed(kind: str, failures: int, state: State) -> None:
    reading = watchers_succeed.judge([watcher(kind=kind, failures=failures, error="no module")])
    assert reading.state is state
    assert [row["error"] for row in reading.evidence] == ["no module"] * (state is FALSE)


def run(age: timedelta, silent: timedelta = timedelta(0), **changes: Any) -> Run:
    values = {"id": "r", "job": "docs_sync", "state": "running", **changes}
    return Run(created=NOW - age, last_event=NOW - silent, **values)


@pytest.mark.parametrize(
    ("runs", "watched", "state"),
    [
        ([], LONG, TRUE),
        ([run(SECOND, state="queued")], LONG, TRUE),
        ([run(9 * HOUR, 29 * MINUTE)], LONG, TRUE),
        ([run(9 * HOUR, 31 * MINUTE)], LONG, FALSE),
        # It may have slept, as whoever looks has.
        ([run(9 * HOUR, 31 * MINUTE)], 29 * MINUTE, CANNOT_TELL),
        # Behind others a run may wait; where nothing else is at work it should have been started.
        ([run(HOUR, HOUR, state="queued"), run(HOUR)], LONG, TRUE),
        ([run(11 * MINUTE, 11 * MINUTE, state="queued")], LONG, FALSE),
        ([run(11 * MINUTE, state="queued"), run(5 * MINUTE, state="queued")], LONG, FALSE),
        # Run by a command, in a terminal: it writes no events while it works.
        ([run(9 * HOUR, 9 * HOUR, attended=True)], LONG, TRUE),
        ([run(MINUTE, MINUTE, attended=False)], SECOND, FALSE),
    ],
)
def test_runs_progress(runs: list[Run], watched: timedelta, state: State) -> None:
    assert runs_progress.judge(runs, NOW, watched).state is state


def waiting(age: timedelta, reason: str) -> Waiting:
    return Waiting("r", "triage_batch", "dagster-run-r-x7", NOW - age, reason, "as it said")


@pytest.mark.parametrize(
    ("found", "state"),
    [
        ([], TRUE),
        # Others hold the devices; or a node is on its way.
        ([waiting(29 * MINUTE, "Unschedulable")], TRUE),
        ([waiting(31 * MINUTE, "Unschedulable")], FALSE),
        ([waiting(4 * MINUTE, "ErrImagePull")], TRUE),
        ([waiting(MINUTE, "Unschedulable"), waiting(6 * MINUTE, "ImagePullBackOff")], FALSE),
    ],
)
def test_runs_scheduled(found: list[Waiting], state: State) -> None:
    reading = runs_scheduled.judge(found, NOW)
    assert reading.state is state
    # Also while it is true: `status` shows what a run waits for from the first moment on.
    assert all(f"({one.reason}: as it said)" in reading.observed for one in found)
    assert [row["run"] for row in reading.evidence] == ["r"] * (state is FALSE)


@pytest.mark.parametrize(
    ("expires", "watched", "state"),
    [
        (10 * MINUTE, LONG, TRUE),
        (-14 * MINUTE, LONG, TRUE),
        (-16 * MINUTE, LONG, FALSE),
        (-16 * MINUTE, MINUTE, CANNOT_TELL),
    ],
)
def test_leases_alive(expires: timedelta, watched: timedelta, state: State) -> None:
    held = leases_alive.Held("docs", "host pid 7 started 8", NOW + expires, gone=True)
    assert leases_alive.judge([held], NOW, watched).state is state


@pytest.mark.parametrize(
    ("disk", "state"),
    [
        (disk_writable.Disk(2**40), TRUE),
        (disk_writable.Disk(2**20), FALSE),
        (disk_writable.Disk(2**40, "OSError: Read-only file system"), FALSE),
    ],
)
def test_disk_writable(disk: disk_writable.Disk, state: State) -> None:
    assert disk_writable.judge(disk, Path("/state")).state is state


def test_the_canary_file_is_written_for_real_and_leaves_nothing(tmp_path: Path) -> None:
    assert disk_writable.look(tmp_path).error is None
    assert list(tmp_path.iterdir()) == []
    assert "FileNotFoundError" in str(disk_writable.look(tmp_path / "gone").error)


@pytest.mark.parametrize(
    ("newest", "state"),
    [(None, TRUE), (-DAY, TRUE), (9 * SECOND, TRUE), (11 * SECOND, FALSE), (HOUR, FALSE)],
)
def test_clock_forward(newest: timedelta | None, state: State) -> None:
    moments = [("a snapshot", NOW - DAY), ("a reading", None if newest is None else NOW + newest)]
    assert clock_forward.judge(moments, NOW).state is state


@dataclass
class StillOrchestrator:
    """One at rest: everything is as it should be, and nothing runs."""

    beats: Sequence[Heartbeat] = field(
        default_factory=lambda: [Heartbeat("SENSOR", datetime.now(UTC), 30 * SECOND)]
    )
    in_progress: Sequence[Run] = ()
    without_pod: Sequence[Waiting] = ()

    def heartbeats(self) -> Sequence[Heartbeat]:
        return self.beats

    def watchers(self, now: datetime) -> Sequence[Watcher]:
        return [watcher(due=now - HOUR, ticked=now)]

    def runs(self) -> Sequence[Run]:
        return self.in_progress

    def waiting(self) -> Sequence[Waiting]:
        return self.without_pod


@pytest.fixture
def engine(state_url: str) -> Engine:
    return open_engine(state_url)


@dataclass
class Place:
    """What one look at the machinery is made of, to be broken one by one."""

    state_dir: Path
    state: Callable[[], Engine]
    orchestrator: Any = field(default_factory=StillOrchestrator)
    broken: dict[str, str] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)

    def readings(self) -> dict[str, Reading]:
        asked = self.orchestrator
        with Machinery(
            state_dir=self.state_dir,
            state=self.state,
            orchestrator=(lambda: nullcontext(asked)) if asked else None,
            broken=self.broken,
            memory=self.memory,
        ) as view:
            return {signal.name: r for signal, r in look(view, catalogue()).items()}

    def false(self) -> set[str]:
        return {name for name, reading in self.readings().items() if reading.state is FALSE}

    def not_true(self) -> dict[str, str]:
        return {n: r.observed for n, r in self.readings().items() if r.state is not TRUE}


@pytest.fixture
def place(tmp_path: Path, engine: Engine) -> Place:
    return Place(tmp_path, lambda: engine)


def test_a_machinery_at_rest_is_true_again_and_again(place: Place) -> None:
    for _ in range(3):
        assert place.not_true() == {}


def test_every_signal_of_the_machinery_says_what_to_do() -> None:
    for signal in catalogue():
        assert (signal.depth, signal.guards) == ("tick", "machinery")
        assert len(signal.runbook) > 80


def test_where_no_daemon_is_expected_none_is_missed(place: Place) -> None:
    place.orchestrator = None
    assert place.not_true() == {}


def test_an_orchestrator_that_cannot_be_asked_is_no_false_alarm(place: Place) -> None:
    class Down:
        def __getattr__(self, name: str) -> Any:
            raise ConnectionError("no such database")

    place.orchestrator = Down()
    readings = place.readings()
    unseen = {name for name, r in readings.items() if r.state is CANNOT_TELL}
    assert unseen == {
        *("daemon_alive", "watchers_on", "watchers_ticking", "watchers_succeed"),
        *("runs_progress", "runs_scheduled", "clock_forward"),
    }
    assert place.false() == set()


def test_a_run_that_waits_for_a_device_does_not_hang(place: Place) -> None:
    started = datetime.now(UTC) - HOUR
    place.orchestrator = StillOrchestrator(
        in_progress=[Run("r", "triage_batch", "running", started, started)],
        without_pod=[Waiting("r", "triage_batch", "p", started, "Unschedulable", "0/3 nodes")],
    )
    assert place.false() == {"runs_scheduled"}


def test_a_broken_folder_is_named(place: Place) -> None:
    place.broken = {"docs": "source: there is no such field"}
    assert place.false() == {"assets_loaded"}
    assert place.readings()["assets_loaded"].evidence[0]["folder"] == "docs"


def test_a_lease_left_behind_is_seen_and_one_in_use_is_not(place: Place, engine: Engine) -> None:
    with leases.hold(engine, "in use"):
        assert place.false() == set()
        with write(engine) as connection:
            left = {
                "name": "left",
                "token": 1,
                "holder": "elsewhere pid 1 started 2",
                "expires_at": datetime.now(UTC) - HOUR,
            }
            connection.execute(insert(lease_table).values(left))
        assert place.false() == {"leases_alive"}


def test_a_heartbeat_from_the_future_means_that_the_clock_went_back(place: Place) -> None:
    ahead = Heartbeat("SENSOR", datetime.now(UTC) + HOUR, 30 * SECOND)
    place.orchestrator = StillOrchestrator([ahead])
    assert place.false() == {"clock_forward"}


def test_a_state_database_that_does_not_answer(place: Place) -> None:
    def down() -> Engine:
        raise UnavailableError("nobody listens", remedy="start it")

    place.state = down
    readings = place.readings()
    assert place.false() == {"state_database_writable"}
    assert readings["state_database_writable"].observed == "nobody listens"
    assert readings["leases_alive"].state is CANNOT_TELL


def test_a_state_database_whose_file_is_gone(place: Place, tmp_path: Path) -> None:
    assert place.not_true() == {}
    for file in tmp_path.glob("state.db*"):
        file.unlink()
    seen = place.readings()["state_database_writable"]
    assert seen.state is FALSE
    assert "is gone" in seen.observed
    assert place.readings()["state_database_writable"].state is FALSE
    assert not (tmp_path / "state.db").exists(), "an empty one where the backup belongs"


def test_a_state_database_that_another_one_took_the_place_of(place: Place, tmp_path: Path) -> None:
    for _ in range(3):
        assert place.not_true() == {}
    open_engine(f"sqlite:///{tmp_path / 'new.db'}").dispose()
    for file in tmp_path.glob("state.db-*"):
        file.unlink()
    (tmp_path / "new.db").rename(tmp_path / "state.db")
    seen = place.readings()["state_database_writable"]
    assert (seen.state, "taken the database's place" in seen.observed) == (FALSE, True), seen
    seen = place.readings()["state_database_writable"]
    assert (seen.state, "an older database was restored" in seen.observed) == (FALSE, True), seen
    place.memory = Memory(since=ALWAYS)  # as after a restart of whoever watches
    assert place.not_true() == {}


def test_a_state_database_that_lost_a_table(place: Place, engine: Engine) -> None:
    with write(engine) as connection:
        connection.execute(text("DROP TABLE answers"))
    assert place.false() == {"state_database_writable"}
    assert "answers" in place.readings()["state_database_writable"].observed


def test_a_schema_of_another_version(place: Place, engine: Engine) -> None:
    with write(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    assert place.false() == {"state_database_writable"}
    assert "0001" in place.readings()["state_database_writable"].observed


def test_a_state_database_that_cannot_be_written(place: Place, engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def read_only(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA query_only = ON")

    engine.dispose()
    assert place.false() == {"state_database_writable"}
    assert "readonly" in place.readings()["state_database_writable"].observed
