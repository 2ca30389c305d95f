"""200 conversations of a public benchmark through everything that a batch has.

A model that is told the ground truth speaks vLLM's HTTP; the agent loop, the session, mTLS, the
shell and 1,142 calls on eight stateful APIs are real. What the calls leave behind, and what each of
them answered, is what they leave and answer when they are made directly.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from agent_pipelines.agents.batch import BatchReport, run_batch
from agent_pipelines.agents.lifecycle import open_batch
from agent_pipelines.agents.model import Model
from agent_pipelines.agents.spec import AgentSpec, Limits
from agent_pipelines.agents.tasks import Task
from agent_pipelines.state.engine import open_engine
from resources.tools import ToolServerResource
from tests.bfcl.benchmark import Entry, World, entries, methods
from tests.bfcl.server import CONVERSATION, STATE
from tests.certificates import Authority
from tests.scripted_model import MODEL, ScriptedModel, Turn, calls, says
from tests.tool_processes import serving


@dataclass(frozen=True)
class Ended:
    """A conversation: what its calls answered, and what they left behind."""

    answers: list[str]
    state: Any


@dataclass(frozen=True)
class Replayed:
    """All conversations, and the batches that they were in."""

    reports: Sequence[BatchReport]
    ended: Mapping[str, Ended]
    requests: Sequence[dict[str, Any]]
    """What the model was asked."""


def agent(apis: Sequence[str]) -> AgentSpec:
    """It may call what these APIs have, on the state of its own conversation."""
    tools = [method for method, (api, _) in methods().items() if api in apis]
    return AgentSpec(
        name="-".join(apis),
        instructions="Do what is asked.",
        tools=tuple(tools),
        bound_arguments={tool: {CONVERSATION: f"{{{CONVERSATION}}}"} for tool in tools},
        limits=Limits(turns=12, tool_calls=12, tool_result_characters=100_000),
        concurrency=8,
    )


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
    tasks: dict[tuple[str, ...], list[Task]] = {}
    for key, entry in entries().items():
        task = Task(key, {"question": "\n".join(entry.questions), CONVERSATION: key})
        tasks.setdefault(tuple(sorted(entry.apis)), []).append(task)

    async def main(
        server: ToolServerResource, base_url: str
    ) -> tuple[list[BatchReport], dict[str, Any]]:
        async with (
            openai.AsyncOpenAI(base_url=base_url, api_key="x") as client,
            server.session() as tools,
        ):
            reports = [
                await run_batch(
                    spec,
                    batch=open_batch(engine, spec, rows, model=MODEL),
                    model=Model(client, MODEL),
                    tools=tools,
                    engine=engine,
                )
                for spec, rows in ((agent(apis), rows) for apis, rows in tasks.items())
            ]
            states = {key: await tools.call(STATE, {CONVERSATION: key}) for key in entries()}
            return reports, {key: json.loads(state.text) for key, state in states.items()}

    authority = Authority(folder / "certificates")
    cert, key = authority.issue("server", "127.0.0.1")
    tls = {"tls_cert": cert, "tls_key": key, "tls_client_ca": authority.pem}
    with serving("tests.bfcl.server", **tls) as port, ScriptedModel(tells_the_truth) as model:
        own_cert, own_key = authority.issue("client", caller="batch")
        server = ToolServerResource(
            url=f"https://127.0.0.1:{port}/mcp",
            ca=str(authority.pem),
            cert=str(own_cert),
            key=str(own_key),
        )
        reports, states = asyncio.run(main(server, model.base_url))
    last = {whose(body): answered(body) for body in model.requests}
    ended = {key: Ended(last[key], state) for key, state in states.items()}
    return Replayed(reports, ended, model.requests)


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


def test_the_batches_account_for_every_conversation(replayed: Replayed) -> None:
    outcomes = sum((Counter(report.outcomes) for report in replayed.reports), Counter[str]())
    assert outcomes == {"ok": 200}
    assert sum(len(ended.answers) for ended in replayed.ended.values()) == 1142


def test_the_model_never_sees_whose_state_it_changes(replayed: Replayed) -> None:
    shown = {
        tool["function"]["name"]: tool["function"]["parameters"]["properties"]
        for body in replayed.requests
        for tool in body.get("tools", ())
    }
    assert set(shown) == set(methods())
    assert not any(CONVERSATION in parameters for parameters in shown.values())
