"""Batches in processes of their own, to be killed; one that has imported everything forks them.

Belongs here: running them over real HTTP, with a model that is scripted and a tool server that
counts. Does not belong here: what must hold afterwards (the tests).

Run as a program it is that process.
"""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Engine, func, select

from agent_pipelines.agents import answers
from agent_pipelines.agents.batch import run_batch
from agent_pipelines.agents.journal import Journal
from agent_pipelines.agents.lifecycle import open_batch
from agent_pipelines.agents.model import Model
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.state import tables
from agent_pipelines.state.engine import open_engine
from resources.tools import ToolServerResource
from tests.scripted_model import MODEL, ScriptedModel, Turn, calls, says

#: A turn of the model: of which task, after how many messages.
ModelCall = tuple[str, int]


@dataclass(frozen=True)
class Work:
    """A batch: so many tasks, each of which calls these tools and says what they brought."""

    state: str
    model: str
    orders: str
    tasks: int
    tools: tuple[str, ...] = ("read", "refund")
    concurrency: int = 8

    @property
    def spec(self) -> AgentSpec:
        return AgentSpec(
            name="clerk",
            instructions="Answer.",
            tools=self.tools,
            tool_servers=("orders",),
            concurrency=self.concurrency,
        )

    @property
    def engine(self) -> Engine:
        return open_engine(self.state)


@dataclass(frozen=True)
class Death:
    """Before or after the nth thing that is written: a message of the journal, or an answer."""

    event: int
    after: bool


def script(tools: tuple[str, ...], delay: float = 0.0) -> Callable[[dict[str, Any]], Turn]:
    """Calls all tools for the task's order, then answers with what they brought."""

    def turn(body: dict[str, Any]) -> Turn:
        messages = body["messages"]
        if len(messages) == 2:
            order = {"order": messages[1]["content"]}
            return Turn(tool_calls=calls(*((t, order) for t in tools)).tool_calls, delay=delay)
        brought = "; ".join(message["content"] for message in messages[3:])
        return says({"answer": brought}, delay=delay)

    return turn


def asked(body: Mapping[str, Any]) -> ModelCall:
    """Which turn a request is for."""
    return body["messages"][1]["content"], len(body["messages"])


class Finished:
    """Finds model calls that are repeated although they were finished: journalled."""

    def __init__(self, engine: Engine, model: ScriptedModel) -> None:
        self._engine = engine
        self._model = model
        self.journalled: set[ModelCall] = set()
        self._seen = 0
        self.repeated: set[ModelCall] = set()

    def look(self) -> None:
        """While no batch runs."""
        later = {asked(body) for body in self._model.requests[self._seen :]}
        self.repeated |= later & self.journalled
        self._seen = len(self._model.requests)
        with self._engine.connect() as connection:
            rows = connection.execute(select(tables.messages)).all()
        # A note is in the journal and not in the conversation.
        positions: Counter[str] = Counter()
        for row in sorted(rows, key=lambda row: (row.task_id, row.ordinal)):
            if row.message["role"] == "assistant":
                self.journalled.add((row.task_id, positions[row.task_id]))
            positions[row.task_id] += row.message["role"] != "harness"


def count(engine: Engine, table: Any) -> int:
    """Rows of a table."""
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


class Batches:
    """Runs batches, one after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, work: Work, death: Death | None = None) -> int:
        """Begin or continue a batch; the id of its process."""
        assert self._process.stdin is not None
        arguments = {"work": asdict(work), "death": asdict(death) if death else None}
        print(json.dumps(arguments), file=self._process.stdin, flush=True)
        return self._said()

    def wait(self) -> int:
        """The signal that it died of; 0 if it came to its end."""
        return self._said()

    def run(self, work: Work, death: Death | None = None) -> int:
        """Both."""
        self.start(work, death)
        return self.wait()

    def _said(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@contextmanager
def batches() -> Iterator[Batches]:
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, __file__],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Batches(process)
        assert process.stdin is not None
        process.stdin.close()


async def _run(work: Work) -> None:
    import openai

    engine, spec = work.engine, work.spec
    tasks = (Task(f"o{n}", {"question": f"o{n}"}) for n in range(work.tasks))
    orders = ToolServerResource(
        name="orders", url=work.orders, call_timeout_seconds=10.0, breaker_open_seconds=0.5
    )
    async with (
        openai.AsyncOpenAI(base_url=work.model, api_key="x") as client,
        orders.session() as session,
    ):
        batch = open_batch(engine, spec, tasks, model=MODEL)
        report = await run_batch(
            spec,
            batch=batch,
            model=Model(client, MODEL),
            tools=session,
            engine=engine,
            say=lambda _said: None,
        )
    assert report.ending.kind == "finished", report


def _die_at(death: Death) -> None:
    numbers = itertools.count(1)

    @contextmanager
    def writing() -> Iterator[None]:
        this = next(numbers) == death.event
        if this and not death.after:
            os.kill(os.getpid(), signal.SIGKILL)
        yield
        if this:
            os.kill(os.getpid(), signal.SIGKILL)

    commit, record_answer = Journal._commit, answers.record_answer

    async def committing(self: Journal, rows: Any) -> None:
        with writing():
            await commit(self, rows)

    def recording(*args: Any, **more: Any) -> None:
        with writing():
            record_answer(*args, **more)

    Journal._commit = committing  # type: ignore[method-assign]
    answers.record_answer = recording


def _child(arguments: dict[str, Any]) -> None:
    if arguments["death"]:
        _die_at(Death(**arguments["death"]))
    given = arguments["work"]
    asyncio.run(_run(Work(**{**given, "tools": tuple(given["tools"])})))


def _import_everything() -> None:
    """Once, for all that are forked."""
    import openai.resources.chat  # noqa: F401

    import resources.tool_session  # noqa: F401

    with TemporaryDirectory() as folder:
        open_engine(f"sqlite:///{folder}/state.db").dispose()


if __name__ == "__main__":
    _import_everything()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                _child(json.loads(line))
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code <= 0, "a batch failed"
        print(-code, flush=True)
