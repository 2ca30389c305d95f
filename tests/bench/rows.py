"""`python -m tests.bench.rows`: a batch of 100,000 rows: its memory, and its pace to the very end.

Belongs here: staging, answering, exporting and rerunning many rows, over a model that answers at
once from a process of its own. Does not belong here: what a conversation costs, or a real model.
"""

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import openai
import psutil
import typer
from rich.console import Console
from sqlalchemy import Engine

from agent_pipelines.agents import answers
from agent_pipelines.agents.batch import run_batch
from agent_pipelines.agents.batches import Batch, named
from agent_pipelines.agents.export import export
from agent_pipelines.agents.lifecycle import open_batch
from agent_pipelines.agents.model import Model
from agent_pipelines.agents.rerun import rerun_failed
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import TaskSource
from agent_pipelines.agents.tasks.reading import Tasks
from agent_pipelines.state.engine import open_engine
from agent_pipelines.terminal import passed_text, table
from tests.loopback import free_port
from tests.processes import until

#: What memory may grow by between the first tenth of the rows and the last, in MB.
MAY_GROW = 30.0

#: The share of the median tenth's pace that the last one keeps.
KEEPS = 0.75

#: One in so many rows fails the first time, for there to be something to rerun.
_FAILS = 50

Say = Callable[[str], None]


@dataclass
class Measured:
    """Seconds of each step, memory in MB as it went on, and rows per second by tenth."""

    rows: int
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    """Of this process and its threads, the model's not included."""
    memory: dict[str, float] = field(default_factory=dict)
    pace: list[float] = field(default_factory=list)

    @property
    def grown(self) -> float:
        """Memory between the first tenth of the rows and the last."""
        return self.memory["100%"] - self.memory["10%"]

    @property
    def kept(self) -> float:
        """Pace of the last tenth, of the median one's."""
        return self.pace[-1] / median(self.pace)

    @contextmanager
    def step(self, name: str, say: Say) -> Iterator[None]:
        """Time a step, and see what memory is after it."""
        say(name)
        started, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = time.perf_counter() - started
        self.cpu_seconds[name] = time.process_time() - cpu
        self.memory[f"after {name}"] = _memory()


class Generated(TaskSource):
    """Questions that are made when they are read."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __str__(self) -> str:
        return "generated"

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Each with 200 characters of its own."""
        return (
            (n, {"task_id": f"row-{n}", "question": f"{n}: " + f"{n:07d} " * 25})
            for n in range(1, self._count + 1)
        )


def measure(engine: Engine, rows: int, concurrency: int, output: Path, say: Say) -> Measured:
    """Stage, answer, export and rerun so many rows."""
    spec = AgentSpec(name="bench", instructions="Answer.", concurrency=concurrency)
    found = Measured(rows)
    tasks = Tasks(Generated(rows))
    with _model_server() as base_url:
        found.memory["before"] = _memory()
        with found.step("staging", say):
            batch = open_batch(engine, spec, tasks, model="first")
        with found.step("opening it again", say):
            assert open_batch(engine, spec, tasks, model="first") == batch
        with found.step("answering", say):
            asyncio.run(_answer(engine, spec, batch, base_url, "first", found))
        recorded = named(engine, batch.batch_id)
        assert recorded is not None
        for ending in ("parquet", "jsonl"):
            with found.step(f"export as {ending}", say):
                assert export(engine, [recorded], output / f"answers.{ending}") == rows
        with found.step("opening a rerun", say):
            again = rerun_failed(engine, spec, model="again")
        with found.step(f"rerunning {again.tasks - again.answered:,}", say):
            asyncio.run(_answer(engine, spec, again, base_url, "again", Measured(rows)))
    assert answers.outcomes(engine, again.batch_id) == {"ok": rows}
    return found


async def _answer(
    engine: Engine, spec: AgentSpec, batch: Batch, base_url: str, model: str, found: Measured
) -> None:
    tenth = max(1, batch.tasks // 10)
    since = time.perf_counter()

    def progress(done: int, _total: int, _outcomes: Mapping[str, int]) -> None:
        nonlocal since
        if done % tenth == 0:
            now = time.perf_counter()
            found.pace.append(tenth / (now - since))
            found.memory[f"{10 * done // tenth}%"] = _memory()
            since = now

    async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as client:
        await run_batch(
            spec,
            batch=batch,
            model=Model(client, model),
            tools=None,
            engine=engine,
            progress=progress,
        )


def _memory() -> float:
    return float(psutil.Process().memory_info().rss) / 1e6


@contextmanager
def _model_server() -> Iterator[str]:
    """A model that answers at once; the first time it fails at some rows."""
    port = free_port()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,))
    server.start()
    try:
        until(partial(_answers, port), 60, "the model server")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.join(10)


def _answers(port: int) -> bool:
    import socket

    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _serve(port: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def complete(request: Request) -> Response:
        body = await request.json()
        number = int(body["messages"][-1]["content"].partition(":")[0])
        if body["model"] == "first" and number % _FAILS == 0:
            return JSONResponse({"error": {"message": "scripted"}}, status_code=400)
        message = {"role": "assistant", "content": f'{{"answer": "{number} {"x" * 200}"}}'}
        return JSONResponse(
            {
                "id": f"chatcmpl-{number}",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 90, "completion_tokens": 60, "total_tokens": 150},
            }
        )

    app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", lifespan="off")


def main(
    rows: Annotated[int, typer.Option(min=10, help="Rows of the batch.")] = 100_000,
    concurrency: Annotated[int, typer.Option(min=1, help="Tasks at once.")] = 32,
    database: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL of an empty state database; default SQLite.")
    ] = None,
) -> None:
    """A batch of many rows: constant memory, and no slowing down towards the end."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(database or f"sqlite:///{folder}/state.db")
        found = measure(engine, rows, concurrency, Path(folder), console.print)
        engine.dispose()
    output = Console()
    steps = [(k, f"{v:.1f}", f"{found.cpu_seconds[k]:.1f}") for k, v in found.seconds.items()]
    output.print(table(("step", "seconds", "of CPU"), steps))
    output.print(table(("at", "MB"), [(k, f"{v:.0f}") for k, v in found.memory.items()]))
    pace = [(f"{10 * n}%", f"{each:.0f}") for n, each in enumerate(found.pace, start=1)]
    output.print(table(("rows", "rows/s of that tenth"), pace))
    passed = found.grown <= MAY_GROW and found.kept >= KEEPS
    verdicts = [
        (
            passed_text(found.grown <= MAY_GROW),
            f"memory grew by {found.grown:.1f} MB from the first tenth of {rows:,} rows to the "
            f"last (at most {MAY_GROW:.0f})",
        ),
        (
            passed_text(found.kept >= KEEPS),
            f"the last tenth keeps {found.kept:.0%} of the median one's pace (at least "
            f"{KEEPS:.0%})",
        ),
    ]
    output.print(table(("", "measured"), verdicts))
    raise typer.Exit(0 if passed else 1)


if __name__ == "__main__":
    typer.run(main)
