"""200 conversations of a public benchmark through everything that a batch has.

A model that is told the ground truth speaks vLLM's HTTP; the agent loop, the session, the shell and
1,142 calls on eight stateful APIs are real. What the calls leave behind, and what each of them
answered, is what they leave and answer when they are made directly.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from agent_pipelines.agents.answers import open_batch
from agent_pipelines.agents.batch import BatchReport, run_batch
from agent_pipelines.agents.model import Model
from agent_pipelines.agents.spec import AgentSpec, Limits
from agent_pipelines.agents.tasks import Task
from agent_pipelines.state.engine import open_engine
from resources.tools import ToolServerResource
from tests.bfcl.benchmark import Entry, World, entries, methods
from tests.bfcl.server import CONVERSATION, STATE
from tests.scripted_model import MODEL, ScriptedModel, Turn, calls, says
from tests.tool_processes import serving

SPEC = AgentSpec(
    name="assistant",
    instructions="Do what is asked.",
    tools=tuple(methods()),
    bound_arguments={method: {CONVERSATION: f"{{{CONVERSATION}}}"} for method in methods()},
    limits=Limits(turns=12, tool_calls=12, tool_result_characters=100_000),
    concurrency=8,
)


@dataclass(frozen=True)
class Ended:
    """A conversation: what its calls answered, and what they left behind."""

    answers: list[str]
    state: Any


@dataclass(frozen=True)
class Replayed:
    """All conversations of the batch, and the batch."""

    report: BatchReport
    ended: Mapping[str, Ended]
    shown: list[dict[str, Any]]
    """The tools that the model was shown."""


def directly(entry: Entry) -> Ended:
    world, answers = World(entry), []
    for call in entry.calls:
        try:
            answers.append(world.call(call.method, call.arguments))
        except Exception as error:
            answers.append(str(error))
    return Ended(answers, json.loads(json.dumps(world.state())))


def tells_the_truth(body: dict[str, Any]) -> Turn:
    """The next call of the ground truth, one at a time: each builds on the one before."""
    entry = entries()[whose(body)]
    done = len(answered(body))
    if done == len(entry.calls):
        return says({"answer": "Done."})
    return calls((entry.calls[done].method, dict(entry.calls[done].arguments)))


def whose(body: dict[str, Any]) -> str:
    return str(json.loads(body["messages"][1]["content"])[CONVERSATION])


def answered(body: dict[str, Any]) -> list[str]:
    return [message["content"] for message in body["messages"] if message["role"] == "tool"]


def replay(folder: Path) -> Replayed:
    engine = open_engine(f"sqlite:///{folder / 'state.db'}")
    tasks = [
        Task(key, {"question": "\n".join(entry.questions), CONVERSATION: key})
        for key, entry in entries().items()
    ]
    batch = open_batch(engine, SPEC, tasks, model=MODEL, snapshot=None)

    async def main(url: str, base_url: str) -> tuple[BatchReport, dict[str, Any]]:
        async with (
            openai.AsyncOpenAI(base_url=base_url, api_key="x") as client,
            ToolServerResource(url=url).session() as tools,
        ):
            report = await run_batch(
                SPEC,
                tasks,
                batch=batch,
                model=Model(client, MODEL),
                tools=tools,
                engine=engine,
            )
            states = {key: await tools.call(STATE, {CONVERSATION: key}) for key in entries()}
            return report, {key: json.loads(state.text) for key, state in states.items()}

    with serving("tests.bfcl.server") as port, ScriptedModel(tells_the_truth) as model:
        report, states = asyncio.run(main(f"http://127.0.0.1:{port}/mcp", model.base_url))
    last = {whose(body): answered(body) for body in model.requests}
    return Replayed(
        report=report,
        ended={key: Ended(last[key], state) for key, state in states.items()},
        shown=model.requests[0]["tools"],
    )


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    return replay(tmp_path_factory.mktemp("bfcl"))


def test_every_conversation_ends_as_if_its_calls_had_been_made_directly(replayed: Replayed) -> None:
    differing = {
        key: (replayed.ended[key], expected)
        for key, entry in entries().items()
        if replayed.ended[key] != (expected := directly(entry))
    }
    assert differing == {}
    assert len(replayed.ended) == 200


def test_the_batch_accounts_for_every_conversation(replayed: Replayed) -> None:
    assert replayed.report.outcomes == {"ok": 200}
    assert sum(len(ended.answers) for ended in replayed.ended.values()) == 1142


def test_the_model_never_sees_whose_state_it_changes(replayed: Replayed) -> None:
    assert {tool["function"]["name"] for tool in replayed.shown} == set(methods())
    for tool in replayed.shown:
        assert CONVERSATION not in tool["function"]["parameters"]["properties"]
