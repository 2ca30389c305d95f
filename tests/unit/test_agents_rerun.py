"""What failed is answered anew: nothing of the earlier batch is lost, and the report is of all."""

import asyncio
from typing import Any

import openai
import pytest
from sqlalchemy import Engine

from agent_pipelines.agents import answers, lifecycle
from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.answers import read_answers
from agent_pipelines.agents.batch import BatchReport, run_batch
from agent_pipelines.agents.batches import Batch, newest, newest_of_all_partitions
from agent_pipelines.agents.lifecycle import open_batch
from agent_pipelines.agents.model import Model
from agent_pipelines.agents.rerun import rerun_failed
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.errors import UserError
from agent_pipelines.state.engine import open_engine
from agent_pipelines.status import agent_status
from tests.scripted_model import MODEL, ScriptedModel, Turn, says

SPEC = AgentSpec(name="triage", instructions="Answer.", concurrency=3)


@pytest.fixture
def engine(state_url: str) -> Engine:
    return open_engine(state_url)


def tasks_of(count: int) -> list[Task]:
    return [Task(f"t{n}", {"question": f"q{n}"}) for n in range(count)]


def run(engine: Engine, batch: Batch, server: ScriptedModel) -> BatchReport:
    async def main() -> BatchReport:
        async with openai.AsyncOpenAI(
            base_url=server.base_url, api_key="x", max_retries=0
        ) as client:
            model = Model(client, MODEL)
            return await run_batch(SPEC, batch=batch, model=model, tools=None, engine=engine)

    return asyncio.run(main())


def failing(*questions: str) -> Any:
    """A model that fails for these questions."""

    def script(body: dict[str, Any]) -> Turn:
        asked = body["messages"][-1]["content"]
        return Turn(status=400) if asked in questions else says({"answer": f"a {asked}"})

    return script


def outcomes_of(engine: Engine, batch_id: str) -> dict[str, str]:
    return {answer.task_id: answer.outcome for answer in read_answers(engine, batch_id)}


def test_only_what_failed_is_asked_again_and_nothing_is_lost(engine: Engine) -> None:
    with ScriptedModel(failing("q1", "q3")) as server:
        first = open_batch(engine, SPEC, tasks_of(5), model=MODEL)
        run(engine, first, server)
    before = outcomes_of(engine, first.batch_id)
    with ScriptedModel(failing("q3")) as server:
        second = rerun_failed(engine, SPEC, model=MODEL)
        report = run(engine, second, server)
        asked = {body["messages"][-1]["content"] for body in server.requests}
    assert asked == {"q1", "q3"}
    assert (second.tasks, second.answered, report.outcomes) == (5, 3, {"ok": 4, "model": 1})
    assert outcomes_of(engine, first.batch_id) == before
    assert [task.row for task, *_ in answers.rows(engine, second.batch_id)] == [1, 2, 3, 4, 5]
    with ScriptedModel(failing()) as server:
        third = rerun_failed(engine, SPEC, model=MODEL)
        assert run(engine, third, server).outcomes == {"ok": 5}
        assert len(server.requests) == 1
        nothing_left = rerun_failed(engine, SPEC, model=MODEL)
        assert (nothing_left.batch_id, nothing_left.answered) == (third.batch_id, 5)
        assert run(engine, nothing_left, server).outcomes == {"ok": 5}


def test_one_that_was_cut_off_goes_on(engine: Engine) -> None:
    finish(engine, open_batch(engine, SPEC, tasks_of(3), model=MODEL), "ok", "tool", "budget")
    begun = rerun_failed(engine, SPEC, model=MODEL)
    answers.record_answer(engine, begun, Answer("t1", "ok"))
    lifecycle.stop_batch(engine, begun.batch_id)
    again = rerun_failed(engine, SPEC, model=MODEL)
    assert (again.batch_id, again.answered) == (begun.batch_id, 2)
    other = rerun_failed(engine, SPEC, model="another")
    assert (other.batch_id == begun.batch_id, other.answered) == (False, 1)


def test_a_rerun_needs_a_batch_that_has_finished(engine: Engine) -> None:
    open_batch(engine, SPEC, tasks_of(1), model=MODEL)
    with pytest.raises(UserError, match="triage has no finished batch"):
        rerun_failed(engine, SPEC, model=MODEL)


def test_each_partition_is_a_batch_of_its_own(engine: Engine) -> None:
    parts = [
        open_batch(engine, SPEC, tasks_of(2), model=MODEL, partition=f"{n}-of-2") for n in (1, 2)
    ]
    assert parts[0].batch_id != parts[1].batch_id
    finish(engine, parts[0], "ok", "model")
    rerun = rerun_failed(engine, SPEC, model=MODEL, partition="1-of-2")
    found = newest_of_all_partitions(engine, "triage")
    assert [batch.batch_id for batch in found] == [rerun.batch_id, parts[1].batch_id]
    status = agent_status(engine, "triage")
    assert (status.state, status.outcomes) == ("running", {"ok": 1})
    whole = open_batch(engine, SPEC, tasks_of(4), model=MODEL)
    assert [batch.batch_id for batch in newest_of_all_partitions(engine, "triage")] == [
        whole.batch_id
    ]
    assert newest(engine, "triage", finished=True) is not None


def finish(engine: Engine, batch: Batch, *outcomes: Any) -> None:
    for number, outcome in enumerate(outcomes):
        answers.record_answer(engine, batch, Answer(f"t{number}", outcome))
    lifecycle.finish_batch(engine, batch.batch_id)
