"""A batch that is killed (-9) wherever it writes, and at any instant: what it had finished is not
done again, what may not be done twice is not, and its rows are those of an undisturbed run."""

import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.answers import read_answers
from agent_pipelines.state import tables
from tests.batches import Batches, Death, Finished, Work, batches, script
from tests.orders_server import OrdersServer, orders
from tests.scripted_model import ScriptedModel

TASKS = 2

#: Messages of a conversation with two results, and its answer.
WRITTEN = 7

#: Kinds of death. A process that dies after its first writing, and the next one again, has died at
#: every boundary in the end; so has one that dies before its second.
DEATHS = {"after it": Death(1, after=True), "before it": Death(2, after=False)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrdersServer]:
    with orders(tmp_path_factory.mktemp("orders")) as server:
        yield server


@pytest.fixture(scope="module")
def runs() -> Iterator[Batches]:
    with batches() as runs:
        yield runs


@pytest.fixture
def begun(server: OrdersServer) -> None:
    """What the tool server did before is of no interest."""
    (server.folder / "done").unlink(missing_ok=True)


def rows(work: Work) -> dict[str, Any]:
    """What the batch says, without what takes time."""
    engine = work.engine
    with engine.connect() as connection:
        batch_id = connection.execute(tables.batches.select()).one().batch_id
    return {
        answer.task_id: replace(answer, seconds=0.0) for answer in read_answers(engine, batch_id)
    }


def undisturbed(work: Work) -> dict[str, Answer]:
    brought = {"read": "order {}", "refund": "refunded {}"}
    return {
        order: Answer(
            task_id=order,
            outcome="ok",
            output={"answer": "; ".join(brought[tool].format(order) for tool in work.tools)},
            turns=2,
            tool_calls=len(work.tools),
            prompt_tokens=20,
            completion_tokens=10,
            citations=[],
            outcome_unknown=[],
            calls_done=[_refund(order)] * ("refund" in work.tools),
        )
        for order in (f"o{n}" for n in range(work.tasks))
    }


def _refund(order: str) -> dict[str, Any]:
    return {"tool": "refund", "arguments": {"order": order}}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
@pytest.mark.parametrize("tools", [("read", "read"), ("read", "refund")], ids=["safe", "not safe"])
@pytest.mark.usefixtures("begun")
def test_killed_wherever_it_writes(
    tools: tuple[str, ...], death: Death, server: OrdersServer, runs: Batches, tmp_path: Path
) -> None:
    with ScriptedModel(script(tools)) as model:
        work = Work(f"sqlite:///{tmp_path}/state.db", model.base_url, server.url, TASKS)
        work = replace(work, tools=tuple(dict.fromkeys(tools)), concurrency=1)
        finished = Finished(work.engine, model)
        kills = 0
        while runs.run(work, death):
            kills += 1
            finished.look()
        finished.look()
    # The last two things are written by the one that dies no more.
    assert TASKS * WRITTEN - 1 <= kills <= TASKS * WRITTEN
    assert finished.repeated == set()
    assert len(finished.journalled) == TASKS * 2
    done = server.done
    for order, answer in rows(work).items():
        expected = undisturbed(replace(work, tools=tools))[order]
        if "refund" not in tools:
            assert answer == expected
            continue
        # Killed when it was about to be sent, or its answer on its way: it is not sent again.
        assert done[f"refund:{order}"] == (0 if death.after else 1)
        assert (answer.outcome_unknown, answer.calls_done) == ([_refund(order)], [])
        assert "The outcome of this call is unknown" in answer.output["answer"]
        known = {"outcome_unknown": [], "calls_done": expected.calls_done}
        assert replace(answer, **known, output=expected.output) == expected


@pytest.mark.parametrize("seed", [7, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("begun")
def test_killed_at_any_instant(
    seed: int, server: OrdersServer, runs: Batches, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    tools = ("read", "refund")
    with ScriptedModel(script(tools, delay=0.05)) as model:
        work = Work(f"sqlite:///{tmp_path}/state.db", model.base_url, server.url, 60, tools, 2)
        finished = Finished(work.engine, model)
        for kills in itertools.count():
            child = runs.start(work)
            # The longer it takes to begin on this machine today, the sooner it gets somewhere.
            time.sleep(chance.uniform(0.3, 1.0) * (1 + kills / 5))
            with suppress(ProcessLookupError):  # it has come to its end
                os.kill(child, signal.SIGKILL)
            ended = runs.wait()
            finished.look()
            if ended == 0:
                break
    assert kills >= 2
    assert finished.repeated == set()
    done, expected = server.done, undisturbed(work)
    for order, answer in rows(work).items():
        assert answer.outcome == "ok"
        assert done[f"refund:{order}"] <= 1
        if not answer.outcome_unknown:
            assert done[f"refund:{order}"] == 1
            assert answer == expected[order]
    assert len(rows(work)) == work.tasks
