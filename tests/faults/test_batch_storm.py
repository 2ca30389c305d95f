"""A batch in a storm: its tool server and its model server are restarted, and it is killed (-9),
twice each; every row is accounted for, none twice, and what may not be done twice is not."""

import os
import signal
import time
from pathlib import Path

import pytest

from agent_pipelines.agents.answers import read_answers
from agent_pipelines.state import tables
from tests.batches import Finished, Work, batches, count, script
from tests.orders_server import orders
from tests.processes import until
from tests.scripted_model import ScriptedModel

TOOLS = ("read", "refund")

#: What happens when a share of the rows is answered; seconds that a server stays away.
STORM = [
    *((0.1, "tools"), (0.25, "batch"), (0.4, "model")),
    *((0.55, "tools"), (0.7, "batch"), (0.85, "model")),
]
AWAY = 1.5


@pytest.mark.parametrize("tasks", [500, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(3000)
def test_every_row_is_accounted_for_and_none_twice(tasks: int, tmp_path: Path) -> None:
    with orders(tmp_path) as server, ScriptedModel(script(TOOLS)) as model, batches() as runs:
        work = Work(f"sqlite:///{tmp_path}/state.db", model.base_url, server.url, tasks)
        engine = work.engine
        finished = Finished(engine, model)
        child = runs.start(work)
        for share, victim in STORM:
            until(lambda: count(engine, tables.answers) >= share * tasks, 1500, f"{share:.0%}")  # noqa: B023
            if victim == "batch":
                os.kill(child, signal.SIGKILL)
                assert runs.wait() == signal.SIGKILL
                finished.look()
                child = runs.start(work)
            elif victim == "tools":
                server.stop()
                time.sleep(AWAY)
                server.start()
            else:
                model.__exit__(None, None, None)
                time.sleep(AWAY)
                model.__enter__()
        assert runs.wait() == 0
        finished.look()

    with engine.connect() as connection:
        (batch,) = connection.execute(tables.batches.select())
    rows = {answer.task_id: answer for answer in read_answers(engine, batch.batch_id)}
    assert (batch.state, rows.keys()) == ("finished", {f"o{n}" for n in range(tasks)})
    assert {answer.outcome for answer in rows.values()} == {"ok"}
    assert finished.repeated == set()
    assert len(finished.journalled) == 2 * tasks
    done = server.done
    lost = [order for order, answer in rows.items() if answer.outcome_unknown]
    for order, answer in rows.items():
        assert done[f"refund:{order}"] <= 1
        if order not in lost:
            assert done[f"refund:{order}"] == 1
            assert answer.output == {"answer": f"order {order}; refunded {order}"}
    # Only what was on its way as something died: of two tool servers and two batches.
    assert len(lost) <= 4 * work.concurrency
