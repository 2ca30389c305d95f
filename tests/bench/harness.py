"""`python -m tests.bench.harness`: what a conversation costs beside the model and the tools.

Belongs here: the same conversation, three turns with two tool calls, held by our loop and by the
peers' against a model server that answers at once, by turns in one run. Does not belong here: what
a tool server costs (`tool_calls.py`), or a real model (`throughput.py`).
"""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from rich.console import Console

from agent_pipelines.settings import Settings
from agent_pipelines.terminal import passed_text, table
from tests.bench.contenders import Contender, python_of
from tests.bench.drivers.conversations import ANSWER
from tests.bench.process import Driver, DriverError, running
from tests.scripted_model import MODEL, ScriptedModel, Turn, calls, says

#: CPU milliseconds of a conversation that our loop may take.
_TARGET = 5.0

_WARM = 50

HARNESSES = (
    Contender("ours", "agent-pipelines", "conversing_ours.py", None),
    Contender("openai-agents", "openai-agents", "conversing_openai_agents.py", "openai-agents.txt"),
    Contender("pydantic-ai", "pydantic-ai", "conversing_pydantic_ai.py", "pydantic-ai.txt"),
    Contender("langgraph", "LangGraph", "conversing_langgraph.py", "langgraph.txt"),
)

console = Console(width=100)


@dataclass
class Row:
    """CPU milliseconds a conversation, and conversations a second, of each turn."""

    title: str
    cpu: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)


def script(body: dict[str, Any]) -> Turn:
    """Two tool calls, one after the other, then the answer."""
    answered = sum(message["role"] == "tool" for message in body["messages"])
    if answered < 2:
        return calls(("look_up", {"topic": f"part {answered + 1} of the incident"}))
    return says(ANSWER)


def bench(
    conversations: Annotated[int, typer.Option(min=10, help="In each turn of each harness.")] = 300,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 5,
    at_once: Annotated[int, typer.Option(min=1, help="Conversations at once.")] = 8,
) -> None:
    """Compare our agent loop with openai-agents, pydantic-ai and LangGraph.

    The model server is scripted and the tool is a function, so that what is left is the harness:
    its CPU time for one conversation of three turns with two tool calls. Ours is shown twice: the
    loop alone, which is what the peers are, and a batch as users run it, with every message in the
    journal before anything follows from it. Exit code 1: our loop takes more than 5 ms.
    """
    cache_dir = Settings().cache_dir
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        server = stack.enter_context(ScriptedModel(script))
        drivers: list[tuple[Driver, str, Row]] = []
        for harness in HARNESSES:
            python = python_of(harness, cache_dir, console.print)
            log = Path(folder) / f"{harness.name}.log"
            driver = stack.enter_context(running(harness, python, log))
            driver.ask("open", url=server.base_url, model=MODEL, state=folder)
            drivers.append((driver, "converse", Row(harness.title)))
            if harness.pins is None:
                drivers.append((driver, "batch", Row(f"{harness.title}, journalled")))
        for driver, do, _ in drivers:
            _turn(driver, do, _WARM, at_once)
        for number in range(rounds):
            # By turns, so that whatever else the machine does falls on all of them.
            for driver, do, row in drivers if number % 2 else reversed(drivers):
                cpu, seconds = _turn(driver, do, conversations, at_once)
                row.cpu.append(1000 * cpu / conversations)
                row.rate.append(conversations / seconds)
            server.requests.clear()
    ours = float(np.median(drivers[0][2].cpu))
    rows = []
    for _, _, row in drivers:
        cpu = float(np.median(row.cpu))
        rows.append((row.title, f"{cpu:.1f}", f"{cpu / ours:.1f}×", f"{np.median(row.rate):,.0f}"))
    columns = ("harness", "CPU ms", "of our loop's", "conversations/s")
    console.print(table(columns, rows))
    console.print(f"our loop: {ours:.1f} ms, target {_TARGET:g} ms ", passed_text(ours <= _TARGET))
    if ours > _TARGET:
        raise typer.Exit(1)


def _turn(driver: Driver, do: str, count: int, at_once: int) -> tuple[float, float]:
    """CPU seconds of the harness's process, and wall seconds."""
    process = psutil.Process(driver.pid)
    before, started = process.cpu_times(), perf_counter()
    right = driver.ask(do, count=count, at_once=at_once)["right"]
    wall, after = perf_counter() - started, process.cpu_times()
    if right != count:
        raise DriverError(f"{count - right} of {count} conversations did not end as they should")
    return after.user + after.system - before.user - before.system, wall


if __name__ == "__main__":
    typer.run(bench)
