"""Batches: every row accounted for, cut off and continued, over a scripted model and SQLite.

Run as a program it is a batch to be killed.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import Engine, Table, create_engine, event, func, select, update

from agent_pipelines.agents import answers, lifecycle, parking
from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.answers import read_answers
from agent_pipelines.agents.batch import BatchReport, run_batch
from agent_pipelines.agents.batches import Batch, Snapshot
from agent_pipelines.agents.journal import Journal
from agent_pipelines.agents.lifecycle import open_batch
from agent_pipelines.agents.model import Model
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import ToolInfo, ToolResult, ToolTransportError
from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.state import leases, tables
from agent_pipelines.state.engine import open_engine, write
from tests.processes import until
from tests.scripted_model import MODEL, ScriptedModel, Turn, says

SPEC = AgentSpec(
    name="triage",
    instructions="Answer.",
    tool_calls="structured",
    tools=("search",),
    index="runbooks",
    concurrency=4,
)
SNAPSHOT = Snapshot("runbooks", 3)


class Tools:
    """Finds one chunk, named after the query; is down for the query ``down``."""

    async def list_tools(self) -> Sequence[ToolInfo]:
        properties = {"index": {"type": "string"}, "query": {"type": "string"}}
        return [ToolInfo("search", "", {"type": "object", "properties": properties}, True)]

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        if arguments["query"] == "down":
            raise ToolTransportError("ReadError")
        hit = {"chunk_id": arguments["query"], "document_id": "d", "content_hash": "ff"}
        hit |= {"uri": "u", "title": "t", "text": "x"}
        return ToolResult(False, "", {"sequence": 4, "hits": [hit]})


def question(body: dict[str, Any]) -> str:
    text: str = body["messages"][1]["content"]
    return text


def model_script(body: dict[str, Any]) -> Turn:
    """Searches for the question, then answers with it; some questions go wrong."""
    asked = question(body)
    if asked == "model":
        return Turn(status=500)
    if asked == "schema":
        return says("{")
    if len(body["messages"]) == 2:
        return says({"tool": "search", "arguments": {"query": asked}})
    return says({"answer": asked, "citations": ["c1"]})


def tasks_of(*questions: str) -> list[Task]:
    return [Task(f"t{n}", {"question": text}) for n, text in enumerate(questions)]


def open_database(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}")
    tables.metadata.create_all(engine)
    return engine


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    # Until a row is given up it is tried again a few times.
    monkeypatch.setattr(parking, "_FIRST", 0.01)
    return open_database(tmp_path / "state.db")


async def run(
    engine: Engine,
    tasks: Sequence[Task],
    base_url: str,
    *,
    tools: Any = None,
    **more: Any,
) -> tuple[Batch, BatchReport]:
    batch = open_batch(engine, SPEC, tasks, model=MODEL, snapshot=SNAPSHOT)
    async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as client:
        report = await run_batch(
            SPEC,
            batch=batch,
            model=Model(client, MODEL),
            tools=tools or Tools(),
            engine=engine,
            **more,
        )
    return batch, report


def state_of(engine: Engine, batch_id: str) -> str:
    with engine.connect() as connection:
        query = select(tables.batches.c.state).where(tables.batches.c.batch_id == batch_id)
        return str(connection.execute(query).scalar_one())


def test_rows_in_are_rows_out_whatever_becomes_of_each(engine: Engine) -> None:
    tasks = tasks_of("one", "down", "model", "schema", "two")
    seen: list[tuple[int, int, Mapping[str, int]]] = []
    with ScriptedModel(model_script) as server:
        batch, report = asyncio.run(
            run(engine, tasks, server.base_url, progress=lambda *step: seen.append(step))
        )
    assert report.outcomes == {
        "ok": 2,
        "transport": 1,
        "model": 1,
        "tool": 0,
        "schema": 1,
    } or (report.outcomes == {"ok": 2, "transport": 1, "model": 1, "schema": 1})
    assert (report.tasks, report.resumed, report.citations) == (5, 0, 2)
    assert report.citations_not_retrieved == 0
    assert report.completion_tokens > 0
    assert report.tokens_per_second > 0
    assert 0 < report.latency_p50 <= report.latency_p95
    assert [done for done, _, _ in seen] == [1, 2, 3, 4, 5]
    assert sum(seen[-1][2].values()) == seen[-1][1] == 5
    assert state_of(engine, batch.batch_id) == "finished"
    by_id = {answer.task_id: answer for answer in read_answers(engine, batch.batch_id)}
    assert by_id["t0"].output == {"answer": "one"}
    assert by_id["t0"].citations[0].chunk_id == "one"
    # What was read decides, not what the batch started on.
    assert by_id["t0"].sequence == 4
    assert by_id["t2"].sequence == SNAPSHOT.sequence
    assert "ReadError" in (by_id["t1"].error or "")


def test_a_bug_in_one_row_does_not_sink_the_others(engine: Engine) -> None:
    class Broken(Tools):
        async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
            if arguments["query"] == "bug":
                raise ZeroDivisionError("oops")
            return await super().call(name, arguments)

    with ScriptedModel(model_script) as server:
        batch, report = asyncio.run(
            run(engine, tasks_of("bug", "one"), server.base_url, tools=Broken())
        )
    assert report.outcomes == {"model": 1, "ok": 1}
    errors = [answer.error for answer in read_answers(engine, batch.batch_id)]
    assert errors[0] == "unexpected ZeroDivisionError: oops"


def test_a_batch_that_is_done_is_not_continued_but_begun_again(engine: Engine) -> None:
    tasks = tasks_of("one")
    with ScriptedModel(model_script) as server:
        first, _ = asyncio.run(run(engine, tasks, server.base_url))
        second, report = asyncio.run(run(engine, tasks, server.base_url))
    assert first.batch_id != second.batch_id
    assert report.resumed == 0


def test_what_is_found_again_is_staged_once(engine: Engine) -> None:
    first = open_batch(engine, SPEC, tasks_of("one", "two"), model=MODEL)
    again = open_batch(engine, SPEC, tasks_of("two", "one")[::-1], model=MODEL)
    assert again.batch_id != first.batch_id, "other questions of the same ids are other work"
    again = open_batch(engine, SPEC, tasks_of("one", "two")[::-1], model=MODEL)
    once = open_batch(engine, SPEC, iter(tasks_of("one", "two")), model=MODEL)
    assert again == once == first
    assert (_count(engine, tables.tasks), _count(engine, tables.batches)) == (4, 2)


def test_tasks_that_cannot_be_staged_to_the_end_leave_nothing(engine: Engine) -> None:
    def failing() -> Iterator[Task]:
        yield from tasks_of(*(f"q{n}" for n in range(2_000)))
        raise UserError("the source is gone", remedy="")

    with pytest.raises(UserError, match="is gone"):
        open_batch(engine, SPEC, failing(), model=MODEL)
    with pytest.raises(UserError, match="it holds tasks twice: t0 on rows 1, 3"):
        open_batch(engine, SPEC, [*tasks_of("a", "b"), *tasks_of("c")], model=MODEL)
    binding = SPEC.model_copy(update={"bound_arguments": {"search": {"query": "{topic}"}}})
    with pytest.raises(UserError, match="task 't0' has no field topic"):
        open_batch(engine, binding, tasks_of("a"), model=MODEL)
    assert (_count(engine, tables.tasks), _count(engine, tables.batches)) == (0, 0)


def test_what_was_cut_off_while_it_was_staged_is_removed(engine: Engine) -> None:
    class Killed(BaseException):
        """Stands for kill -9: nothing is tidied up after it."""

    def dying() -> Iterator[Task]:
        yield from tasks_of(*(f"q{n}" for n in range(2_000)))
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifecycle, "_remove", lambda *_: None)
        with pytest.raises(Killed):
            open_batch(engine, SPEC, dying(), model=MODEL)
    assert _count(engine, tables.tasks) == 2_000
    batch = open_batch(engine, SPEC, tasks_of("one"), model=MODEL)
    assert (batch.tasks, batch.answered) == (1, 0)
    assert (_count(engine, tables.tasks), _count(engine, tables.batches)) == (1, 1)


def test_tasks_are_read_page_by_page_in_the_order_of_their_source(engine: Engine) -> None:
    tasks = [Task(f"t{row}", {"question": "q"}, row) for row in (2, 3, 5, 8)]
    batch = open_batch(engine, SPEC, tasks, model=MODEL)
    answers.record_answer(engine, batch, Answer("t3", "ok"))
    first = answers.unanswered(engine, batch.batch_id, after=0, limit=2)
    assert [(task.row, task.task_id) for task in first] == [(2, "t2"), (5, "t5")]
    (last,) = answers.unanswered(engine, batch.batch_id, after=5, limit=2)
    assert last.task_id == "t8"


def test_prompts_that_begin_alike_are_asked_one_after_the_other(engine: Engine) -> None:
    """So that the model server finds what they share in its prefix cache, however small that is."""
    questions = [f"{text}: {number}" for number in range(3) for text in ("long", "other")]
    alone = SPEC.model_copy(update={"concurrency": 1, "tools": (), "must_consult": None})

    def answers_all(body: dict[str, Any]) -> Turn:
        return says({"answer": question(body), "citations": []})

    async def main() -> None:
        batch = open_batch(engine, alone, tasks_of(*questions), model=MODEL, snapshot=SNAPSHOT)
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="x") as client:
            await run_batch(
                alone, batch=batch, model=Model(client, MODEL), tools=Tools(), engine=engine
            )

    with ScriptedModel(answers_all) as server:
        asyncio.run(main())
    assert [question(body) for body in server.requests] == sorted(questions)


def test_what_has_not_begun_is_not_read_one_by_one(engine: Engine) -> None:
    """What has is: a page of tasks is asked which of them that are."""
    read: list[Any] = []

    def executed(_: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if statement.startswith("SELECT messages.message"):
            read.append(parameters[1])

    tasks = tasks_of(*(f"q{n}" for n in range(6)))
    batch = open_batch(engine, SPEC, tasks, model=MODEL, snapshot=SNAPSHOT)
    begun = Journal(engine, batch.batch_id).recorder("t2", following=0)
    asyncio.run(begun({"role": "system", "content": "Answer."}))
    event.listen(engine, "before_cursor_execute", executed)
    with ScriptedModel(model_script) as server:
        _, report = asyncio.run(run(engine, tasks, server.base_url))
    event.remove(engine, "before_cursor_execute", executed)
    assert (report.batch_id, report.outcomes) == (batch.batch_id, {"ok": 6})
    assert read == ["t2"]


def test_other_work_is_another_batch(engine: Engine) -> None:
    def opened(**more: Any) -> str:
        tasks = more.pop("tasks", tasks_of("one"))
        spec = SPEC.model_copy(update=more.pop("spec", {}))
        keys: dict[str, Any] = {"model": MODEL, "snapshot": SNAPSHOT} | more
        return open_batch(engine, spec, tasks, **keys).batch_id

    assert opened() == opened() == opened(spec={"concurrency": 99})
    # Labels say what was not true, and decide nothing.
    assert opened(false_signals=["fresh"]) == opened()
    others = [
        opened(tasks=tasks_of("two")),
        opened(spec={"instructions": "Answer well."}),
        opened(model="another"),
        opened(snapshot=Snapshot("runbooks", 4)),
    ]
    assert len({opened(), *others}) == 5


@contextmanager
def batch_process(path: Path, base_url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """This file, run as a program."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, __file__, str(path), base_url],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.DEVNULL,
        # Where the tests run in the background, they ignore Ctrl-C, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_leaves_a_batch_that_continues(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    engine = open_database(path)
    tasks = tasks_of(*(f"q{n}" for n in range(20)))

    def slow(body: dict[str, Any]) -> Turn:
        # Long enough that the signal comes before the end, on a busy machine too.
        return Turn(content=model_script(body).content, delay=0.3)

    with ScriptedModel(slow) as server:
        with batch_process(path, server.base_url) as process:
            until(lambda: _count(engine, tables.answers) >= 5, 60, "five answers")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == -signal.SIGINT
        batch = open_batch(engine, SPEC, tasks, model=MODEL, snapshot=SNAPSHOT)
        assert 5 <= batch.answered < 20
        again, report = asyncio.run(run(engine, tasks, server.base_url))
    assert again.batch_id == batch.batch_id
    assert report.resumed >= 5
    assert report.outcomes == {"ok": 20}


def test_kill_9_repeats_no_finished_model_call(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    engine = open_database(path)
    tasks = tasks_of(*(f"q{n}" for n in range(20)))

    def slow(body: dict[str, Any]) -> Turn:
        return Turn(content=model_script(body).content, delay=0.05)

    with ScriptedModel(slow) as server:
        with batch_process(path, server.base_url) as process:
            until(lambda: _count(engine, tables.messages) >= 40, 60, "forty messages")
            process.kill()
            process.wait()
        journalled = _replies(engine)
        assert 0 < len(journalled) < 40
        before = len(server.requests)
        _, report = asyncio.run(run(engine, tasks, server.base_url))
        repeated = Counter(_turn(body) for body in server.requests[before:])

    assert report.outcomes == {"ok": 20}
    assert report.resumed > 0
    assert set(repeated).isdisjoint(journalled)
    assert set(repeated.values()) == {1}
    for answer in read_answers(engine, report.batch_id):
        assert answer.output == {"answer": f"q{answer.task_id[1:]}"}
        assert (answer.turns, answer.tool_calls) == (2, 1)


def test_the_state_database_failing_stops_the_batch(engine: Engine) -> None:
    tasks = tasks_of(*(f"q{n}" for n in range(20)))

    def drop(done: int, *_: object) -> None:
        if done == 1:
            tables.messages.drop(engine)

    with (
        ScriptedModel(model_script) as server,
        pytest.raises(UnavailableError, match=r"state\.db cannot be used"),
    ):
        asyncio.run(run(engine, tasks, server.base_url, progress=drop))


def test_whoever_lost_the_lease_records_nothing_more(state_url: str) -> None:
    """Neither a message nor an answer, and not that the batch has stopped: another run is at it."""
    engine = open_engine(state_url)
    recorded: list[tuple[int, int]] = []

    def counts() -> tuple[int, int]:
        return _count(engine, tables.messages), _count(engine, tables.answers)

    with ExitStack() as stack, ScriptedModel(model_script) as server:
        late = stack.enter_context(leases.hold(engine, "agent triage"))

        def take_over(done: int, *_: object) -> None:
            if done == 2:
                with write(engine) as connection:
                    connection.execute(update(tables.leases).values(expires_at=datetime.now(UTC)))
                stack.enter_context(leases.hold(engine, "agent triage"))
                recorded.append(counts())

        tasks = tasks_of(*(f"q{n}" for n in range(20)))
        with pytest.raises(leases.LeaseLostError, match="took over agent triage"):
            asyncio.run(run(engine, tasks, server.base_url, progress=take_over, fence=late.check))
        assert recorded == [counts()]
    with engine.connect() as connection:
        assert connection.scalars(select(tables.batches.c.state)).all() == ["running"]


def test_a_missing_answer_is_never_passed_over(engine: Engine) -> None:
    batch = open_batch(engine, SPEC, tasks_of("one"), model=MODEL)
    with pytest.raises(RuntimeError, match="1 tasks in, 0 answers out"):
        lifecycle.finish_batch(engine, batch.batch_id)
    assert state_of(engine, batch.batch_id) == "running"


def _count(engine: Engine, table: Table) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def _replies(engine: Engine) -> set[tuple[str, int]]:
    """Replies in the journal: of which question, and after how many messages."""
    with engine.connect() as connection:
        rows = connection.execute(select(tables.messages)).all()
    return {
        (f"q{row.task_id[1:]}", row.ordinal) for row in rows if row.message["role"] == "assistant"
    }


def _turn(body: dict[str, Any]) -> tuple[str, int]:
    return question(body), len(body["messages"])


if __name__ == "__main__":
    asyncio.run(
        run(
            open_database(Path(sys.argv[1])),
            tasks_of(*(f"q{n}" for n in range(20))),
            sys.argv[2],
        )
    )
