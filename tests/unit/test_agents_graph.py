"""A user's LangGraph graph as an agent: the real LangGraph, and a scripted model over HTTP."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.messages import SystemMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import RetryPolicy, interrupt
from pydantic import BaseModel, ValidationError

from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.answers import read_answers
from agent_pipelines.agents.batch import run_batch
from agent_pipelines.agents.conversation import Parked
from agent_pipelines.agents.lifecycle import open_batch
from agent_pipelines.agents.loop import converse
from agent_pipelines.agents.model import Message, Model
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import (
    Toolbox,
    ToolInfo,
    ToolNotSentError,
    ToolResult,
    ToolTransportError,
    ToolUnavailableError,
)
from agent_pipelines.errors import UserError
from agent_pipelines.state.engine import open_engine
from tests.scripted_model import MODEL, Script, ScriptedModel, Turn, calls, says

# What users write


TOLD: list[Exception] = []


def told(error: Exception) -> str:
    """Asked whether to retry or what to make of an error, anything will do."""
    TOLD.append(error)
    return "An error."


def react(model: Any, tools: Any) -> Any:
    """Model and tools by turns, with everything on that LangGraph has against errors."""

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.bind_tools(tools).ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask, retry_policy=RetryPolicy(max_attempts=5, retry_on=told))
    graph.add_node("tools", ToolNode(tools, handle_tool_errors=told))
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", tools_condition)
    graph.add_edge("tools", "ask")
    return graph.compile()


def at_once(model: Any, tools: Any) -> Any:
    """Calls both tools itself, and asks two of its kind meanwhile; then one who sums up."""
    named = {tool.name: tool for tool in tools}

    class State(MessagesState):
        found: str

    async def look(_state: State) -> dict[str, Any]:
        found = await asyncio.gather(
            named["search"].ainvoke({"query": "pod"}),
            named["restart"].ainvoke({}),
            model.ainvoke([SystemMessage("You are an optimist.")]),
            model.ainvoke([SystemMessage("You are a pessimist.")]),
        )
        return {"found": " / ".join(str(getattr(each, "content", each)) for each in found)}

    async def sum_up(state: State) -> dict[str, Any]:
        return {"messages": [await model.ainvoke([*state["messages"], ("user", state["found"])])]}

    graph = StateGraph(State)
    graph.add_sequence([look, sum_up])
    graph.add_edge(START, "look")
    return graph.compile()


class Verdict(BaseModel):
    answer: str


def structured(model: Any, _tools: Any) -> Any:
    class State(MessagesState):
        structured_response: Verdict

    async def judge(state: State) -> dict[str, Any]:
        judging = model.with_structured_output(Verdict)
        return {"structured_response": await judging.ainvoke(state["messages"])}

    graph = StateGraph(State)
    graph.add_sequence([judge])
    graph.add_edge(START, "judge")
    return graph.compile()


def one(node: Callable[..., Any]) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_sequence([("ask", node)])
    graph.add_edge(START, "ask")
    return graph.compile()


def synchronous(model: Any, _tools: Any) -> Any:
    return one(lambda state: {"messages": [model.invoke(state["messages"])]})


def hot(model: Any, _tools: Any) -> Any:
    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"], temperature=2)]}

    return one(ask)


def asks_a_person(_model: Any, _tools: Any) -> Any:
    def ask(_state: MessagesState) -> dict[str, Any]:
        return {"messages": [interrupt("May I?")]}

    return one(ask)


def uncompiled(_model: Any, _tools: Any) -> Any:
    return StateGraph(MessagesState)


# What they run on


@dataclass
class Tools:
    """`search` finds one chunk; `restart` may not be repeated."""

    results: dict[str, ToolResult | Exception] = field(default_factory=dict)
    sent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def list_tools(self) -> Sequence[ToolInfo]:
        texts = {"index": {"type": "string"}, "query": {"type": "string"}}
        return [
            ToolInfo("search", "Search.", {"type": "object", "properties": texts}, True),
            ToolInfo("restart", "Restart a pod.", {"type": "object"}, False),
            ToolInfo("secret", "Not for you.", {"type": "object"}, True),
        ]

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        result = self.results.get(name)
        if not isinstance(result, ToolNotSentError):
            self.sent.append((name, dict(arguments)))
            await asyncio.sleep(0.05)
        if isinstance(result, Exception):
            raise result
        if result is not None or name == "restart":
            return result or ToolResult(False, "restarted")
        hit = dict.fromkeys(("document_id", "content_hash", "uri", "title"), "x")
        hit |= {"chunk_id": "pod-1", "text": "Restart it."}
        return ToolResult(False, "raw", {"sequence": 7, "hits": [hit]})

    @property
    def names(self) -> list[str]:
        return sorted(name for name, _ in self.sent)


def spec_of(build: Callable[..., Any], **more: Any) -> AgentSpec:
    fields: dict[str, Any] = {
        "name": "triage",
        "instructions": "Answer from the runbooks.",
        "tools": ("search", "restart"),
        "index": "runbooks",
        "graph": f"{__name__}.{build.__name__}",
    }
    return AgentSpec.model_validate(fields | more)


@dataclass
class Talk:
    """One conversation, held as often as it takes."""

    spec: AgentSpec
    script: Script | list[Turn]
    tools: Tools = field(default_factory=Tools)
    journal: list[Message] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)

    def hold(self, *, dies_at: int | None = None, patient: bool = False) -> Answer:
        """``dies_at``: messages in the journal, after which no other gets there."""

        async def record(message: Message) -> None:
            await asyncio.sleep(0)
            if len(self.journal) == dies_at:
                raise ConnectionAbortedError("killed")
            self.journal.append(json.loads(json.dumps(message)))

        async def main(base_url: str) -> Answer:
            async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as client:
                return await converse(
                    self.spec,
                    Task("t1", {"question": "How do I restart it?"}),
                    model=Model(client, MODEL),
                    toolbox=await Toolbox.open(self.spec, self.tools),
                    record=record,
                    history=list(self.journal),
                    patient=patient,
                )

        with ScriptedModel(self.script) as server:
            try:
                return asyncio.run(main(server.base_url))
            finally:
                self.requests += server.requests


SEARCH = calls(("search", {"query": "pod", "index": "others"}))
ANSWER = says({"answer": "Restart it.", "citations": ["c1"]})


class TestReact:
    def test_it_consults_tools_and_answers_with_citations(self) -> None:
        talk = Talk(spec_of(react), [SEARCH, ANSWER])
        answer = talk.hold()
        assert (answer.outcome, answer.output) == ("ok", {"answer": "Restart it."})
        assert [(c.chunk_id, c.retrieved) for c in answer.citations] == [("pod-1", True)]
        # The index is the agent's, whatever the model asks for.
        assert talk.tools.sent == [("search", {"query": "pod", "index": "runbooks"})]
        assert (answer.turns, answer.tool_calls, answer.sequence) == (2, 1, 7)
        assert talk.journal[3]["tool_call_id"] == "call-0-0"
        assert (answer.prompt_tokens, answer.completion_tokens) == (20, 10)

    def test_it_asks_as_the_loop_would(self) -> None:
        asked = []
        for graph in (spec_of(react).graph, None):
            spec = spec_of(react).model_copy(update={"graph": graph})
            talk = Talk(spec, [SEARCH, ANSWER])
            talk.hold()
            asked.append([{"tool_choice": "auto", **request} for request in talk.requests])
        assert asked[0] == asked[1]

    def test_a_tool_outside_the_allowlist_is_not_there(self) -> None:
        spec = spec_of(react, tools=("search",))
        talk = Talk(spec, [calls(("secret", {}), ("restart", {})), says({"answer": "x"})])
        assert talk.hold().outcome == "ok"
        assert talk.tools.sent == []
        for refused in talk.requests[1]["messages"][-2:]:
            assert "not a valid tool, try one of [search]" in refused["content"]

    def test_what_a_tool_calls_an_error_is_for_the_graph_to_see(self) -> None:
        tools = Tools({"search": ToolResult(True, "There is no index.")})
        talk = Talk(spec_of(react), [SEARCH, says({"answer": "x"})], tools)
        assert talk.hold().outcome == "ok"
        assert talk.requests[1]["messages"][-1]["content"] == "There is no index."

    def test_an_invalid_answer_is_corrected_once(self) -> None:
        talk = Talk(spec_of(react), [SEARCH, says("Restart it!"), ANSWER])
        assert talk.hold().outcome == "ok"
        corrective = talk.requests[-1]
        assert "not accepted: it is not a JSON object" in corrective["messages"][-1]["content"]
        assert corrective["response_format"]["json_schema"]["schema"]["required"] == [
            "answer",
            "citations",
        ]
        assert Talk(spec_of(react), [SEARCH, *[says("No.")] * 2]).hold().outcome == "schema"

    def test_an_answer_without_the_tool_it_must_consult_is_none(self) -> None:
        spec = spec_of(react, must_consult=True)
        assert Talk(spec, [ANSWER]).hold().outcome == "schema"
        tools = Tools({"search": ToolResult(True, "There is no index.")})
        answer = Talk(spec, [SEARCH, ANSWER], tools).hold()
        assert (answer.outcome, answer.error) == ("tool", "There is no index.")

    def test_a_structured_response_is_an_answer(self) -> None:
        script = [calls(("Verdict", {"answer": "42"}))]
        assert Talk(spec_of(structured), script).hold().output == {"answer": "42"}


class TestLimits:
    def test_turns(self) -> None:
        talk = Talk(spec_of(react, limits={"turns": 3}), lambda _: SEARCH)
        answer = talk.hold()
        assert answer.outcome == "budget"
        assert "3 turns" in (answer.error or "")
        assert len(talk.requests) == 3

    def test_turns_that_are_asked_for_at_once(self) -> None:
        talk = Talk(spec_of(at_once, limits={"turns": 1}), lambda _: says("Well."))
        assert talk.hold().outcome == "budget"
        assert len(talk.requests) == 1

    def test_tool_calls_that_are_made_at_once(self) -> None:
        turn = calls(*(("search", {"query": str(n)}) for n in range(3)))
        talk = Talk(spec_of(react, limits={"tool_calls": 2}), [turn, ANSWER])
        answer = talk.hold()
        assert (answer.outcome, answer.tool_calls, len(talk.tools.sent)) == ("ok", 2, 2)
        assert "limit of 2 tool calls" in talk.requests[1]["messages"][-1]["content"]

    @pytest.mark.parametrize("graph", [react, at_once])
    def test_time_and_what_was_under_way_when_it_was_over(self, graph: Callable[..., Any]) -> None:
        class Slow(Tools):
            async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
                await asyncio.sleep(60)
                return await super().call(name, arguments)

        spec = spec_of(graph, limits={"seconds": 0.5})
        restart = calls(("restart", {}))
        answer = Talk(spec, lambda _: restart, Slow()).hold()
        assert answer.outcome == "budget"
        assert answer.outcome_unknown == [{"tool": "restart", "arguments": {}}]

    def test_a_refusal_and_a_failing_model_are_not_for_the_graph_to_retry(self) -> None:
        for turn, outcome in ((Turn(refusal="No."), "refused"), (Turn(status=400), "model")):
            talk = Talk(spec_of(react), lambda _, turn=turn: turn)
            assert talk.hold().outcome == outcome
            assert len(talk.requests) == 1
        assert TOLD == []


def script_at_once(body: dict[str, Any]) -> Turn:
    said = body["messages"][0]["content"]
    return says("Fine.") if "optimist" in said else says("Alas.") if "pess" in said else ANSWER


class TestResumption:
    def test_killed_at_any_message_it_repeats_nothing_that_was_finished(self) -> None:
        whole = Talk(spec_of(at_once), script_at_once)
        undisturbed = whole.hold()
        assert undisturbed.outcome == "ok"
        assert len(whole.journal) == 8  # two of the prompt, an intent, two results, three replies
        for kept in range(len(whole.journal)):
            talk = Talk(spec_of(at_once), script_at_once)
            with pytest.raises(ConnectionAbortedError):
                talk.hold(dies_at=kept)
            finished = sum(message["role"] == "assistant" for message in talk.journal)
            asked = len(talk.requests)
            answer = talk.hold()
            assert answer.output == undisturbed.output
            assert (answer.turns, answer.tool_calls) == (3, 2)
            assert len(talk.requests) == asked + 3 - finished
            assert talk.tools.names.count("restart") == 1

    def test_a_call_that_was_interrupted_is_not_repeated_but_told(self) -> None:
        talk = Talk(spec_of(react), [calls(("restart", {}))])
        with pytest.raises(ConnectionAbortedError):
            talk.hold(dies_at=4)  # prompt, reply and intent are in the journal
        assert talk.tools.names == ["restart"]
        talk.script = [says({"answer": "Perhaps."})]
        answer = talk.hold()
        assert talk.tools.names == ["restart"]
        assert "outcome of this call is unknown" in talk.requests[-1]["messages"][-1]["content"]
        assert answer.outcome_unknown == [{"tool": "restart", "arguments": {}}]
        assert Talk(talk.spec, [], talk.tools, talk.journal).hold().output == answer.output

    @pytest.mark.parametrize("kept", [5, 6])
    def test_a_corrective_turn_is_taken_up_again(self, kept: int) -> None:
        talk = Talk(spec_of(react), [SEARCH, says("Restart it!"), ANSWER])
        with pytest.raises(ConnectionAbortedError):
            talk.hold(dies_at=kept)
        talk.script = [ANSWER]
        assert talk.hold().outcome == "ok"
        assert len(talk.journal) == 7


class TestOutages:
    def test_a_server_that_is_down_parks_it_and_nothing_is_made_twice(self) -> None:
        down = ToolUnavailableError("search", 30.0, "it is down")
        talk = Talk(spec_of(at_once), script_at_once, Tools({"search": down}))
        with pytest.raises(Parked) as parked:
            talk.hold(patient=True)
        assert (parked.value.what, parked.value.retry_after) == ("search", 30.0)
        # LangGraph would have cut off what ran beside it.
        assert talk.tools.names == ["restart"]
        asked = len(talk.requests)
        talk.tools.results.clear()
        answer = talk.hold(patient=True)
        assert (answer.outcome, answer.outcome_unknown) == ("ok", [])
        assert talk.tools.names == ["restart", "search"]
        assert (asked, len(talk.requests)) == (2, 3)

    def test_a_call_that_was_not_sent_is_made_later(self) -> None:
        down = ToolUnavailableError("search", 30.0, "it is down")
        restart = calls(("restart", {}))
        talk = Talk(spec_of(react), [restart], Tools({"restart": down}))
        with pytest.raises(Parked):
            talk.hold(patient=True)
        assert TOLD == []
        talk.tools.results.clear()
        talk.script = [says({"answer": "Done."})]
        answer = talk.hold(patient=True)
        assert (answer.outcome, answer.outcome_unknown) == ("ok", [])
        assert talk.tools.names == ["restart"]

    def test_a_model_that_is_down_parks_it(self) -> None:
        talk = Talk(spec_of(react), lambda _: Turn(status=503))
        with pytest.raises(Parked, match="503"):
            talk.hold(patient=True)
        assert len(talk.requests) == 1

    def test_who_is_not_patient_is_told_at_once(self) -> None:
        gone = Tools({"search": ToolTransportError("ConnectError")})
        assert Talk(spec_of(react), [SEARCH], gone).hold().outcome == "transport"


class TestWhatUsersGetWrong:
    @pytest.mark.parametrize(
        ("graph", "said"),
        [
            (synchronous, "calls its model synchronously"),
            (hot, "leave it out: the agent's YAML says"),
            (asks_a_person, "is interrupted to ask a person"),
            (uncompiled, "return graph.compile()"),
        ],
    )
    def test_a_graph_that_cannot_be_run_says_why(
        self, graph: Callable[..., Any], said: str
    ) -> None:
        with pytest.raises(UserError) as error:
            Talk(spec_of(graph), [ANSWER]).hold()
        assert said in str(error.value)

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"graph": f"{__name__}.nothing"}, "has no nothing"),
            ({"graph": f"{__name__}.ANSWER"}, "neither a function nor a class"),
            ({"tool_calls": "structured"}, "a graph calls tools natively"),
        ],
    )
    def test_a_path_that_cannot_be_used_is_said(self, fields: dict[str, Any], said: str) -> None:
        with pytest.raises(ValidationError, match=said):
            spec_of(react, **fields)

    def test_without_langgraph_it_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        with pytest.raises(UserError, match="uv sync --extra langgraph"):
            spec_of(react)


def test_a_batch_runs_it(tmp_path: Path) -> None:
    spec = spec_of(react, concurrency=4)
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    tasks = [Task(f"t{n}", {"question": f"How do I restart {n}?"}) for n in range(8)]
    batch = open_batch(engine, spec, tasks, model=MODEL)

    async def main(base_url: str) -> None:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as client:
            report = await run_batch(
                spec, batch=batch, model=Model(client, MODEL), tools=Tools(), engine=engine
            )
        assert report.outcomes == {"ok": 8}

    def script(body: dict[str, Any]) -> Turn:
        return SEARCH if len(body["messages"]) == 2 else ANSWER

    with ScriptedModel(script) as server:
        asyncio.run(main(server.base_url))
    assert len(server.requests) == 16
    assert {answer.task_id for answer in read_answers(engine, batch.batch_id)} == {
        task.task_id for task in tasks
    }
