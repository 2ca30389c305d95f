"""What is down is waited for: rows are parked and drained, and no call is made twice.

Over a scripted model and tools in memory; with real processes and kills, see `tests/faults`.
"""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import Engine, select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent_pipelines.agents import model, parking, pulse, spending, waiting
from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.answers import read_answers, record_answer, unanswered
from agent_pipelines.agents.batch import BatchReport, run_batch
from agent_pipelines.agents.batches import Snapshot
from agent_pipelines.agents.conversation import Parked
from agent_pipelines.agents.lifecycle import open_batch, resume
from agent_pipelines.agents.loop import converse
from agent_pipelines.agents.model import Message, Model, ModelError, ModelUnavailableError
from agent_pipelines.agents.rerun import rerun_failed
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
from agent_pipelines.agents.waiting import WaitingBatch
from agent_pipelines.state import tables
from agent_pipelines.state.engine import open_engine
from tests.loopback import LoopbackServer
from tests.scripted_model import (
    MODEL,
    Script,
    ScriptedModel,
    Turn,
    calls,
    says,
    scripted_process,
)

ANY = {"type": "object", "properties": {"order": {"type": "string"}}}
DONE = says({"answer": "Done."})


def spec_of(**more: Any) -> AgentSpec:
    fields: dict[str, Any] = {
        "name": "clerk",
        "instructions": "Answer.",
        "tools": ("read", "refund"),
        "tool_servers": ("orders",),
        "concurrency": 4,
    }
    return AgentSpec.model_validate(fields | more)


class Orders:
    """Reads may be repeated, refunds may not. Down as long as there is something to raise."""

    def __init__(self, **down: Exception | ToolResult) -> None:
        self.down = down
        self.done: list[str] = []

    async def list_tools(self) -> Sequence[ToolInfo]:
        return [
            ToolInfo("read", "", ANY, True, server="orders"),
            ToolInfo("refund", "", ANY, False, server="orders"),
        ]

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        result = self.down.get(name)
        if isinstance(result, ToolResult):
            return result
        if not isinstance(result, ToolNotSentError):
            self.done.append(name)
        if result is not None:
            raise result
        return ToolResult(False, f"{name} done")


class Talk:
    """One conversation of a patient agent, held as often as it takes."""

    def __init__(self, script: Script | list[Turn]) -> None:
        self.script = script
        self.journal: list[Message] = []
        self.requests: list[dict[str, Any]] = []

    def hold(self, tools: Orders, *, patient: bool = True, **limits: Any) -> Answer:
        with ScriptedModel(self.script) as server:
            try:
                return self.hold_with(server.base_url, tools, patient=patient, **limits)
            finally:
                self.requests += server.requests

    def hold_with(self, base_url: str, tools: Orders, *, patient: bool, **limits: Any) -> Answer:
        async def record(message: Message) -> None:
            self.journal.append(json.loads(json.dumps(message)))

        async def main() -> Answer:
            async with openai.AsyncOpenAI(base_url=base_url, api_key="x") as client:
                spec = spec_of(limits=limits)
                return await converse(
                    spec,
                    Task("t", {"question": "Refund it."}),
                    model=Model(client, MODEL).asking_once(),
                    toolbox=await Toolbox.open(spec, tools),
                    record=record,
                    history=list(self.journal),
                    patient=patient,
                )

        return asyncio.run(main())


BOTH = calls(("refund", {"order": "7"}), ("read", {"order": "7"}))
UNAVAILABLE = ToolUnavailableError("orders", 30.0, "it is down")


class TestConversation:
    def test_a_call_that_was_not_sent_is_made_later_and_its_sisters_are_not_repeated(self) -> None:
        talk = Talk([BOTH])
        first = Orders(read=UNAVAILABLE)
        with pytest.raises(Parked) as parked:
            talk.hold(first)
        assert (parked.value.what, parked.value.retry_after) == ("orders", 30.0)
        assert parked.value.answered
        assert first.done == ["refund"]

        talk.script, second = [DONE], Orders()
        answer = talk.hold(second)
        assert second.done == ["read"]
        assert answer.outcome == "ok"
        assert (answer.tool_calls, answer.outcome_unknown) == (2, [])
        assert answer.calls_done == [{"tool": "refund", "arguments": {"order": "7"}}]
        texts = [message["content"] for message in talk.requests[-1]["messages"][-2:]]
        assert texts == ["refund done", "read done"]
        assert "harness" not in json.dumps(talk.requests)

    def test_what_may_not_be_repeated_is_made_later_if_it_was_not_sent(self) -> None:
        talk = Talk([BOTH])
        for _ in range(2):
            with pytest.raises(Parked):
                talk.hold(Orders(refund=UNAVAILABLE, read=UNAVAILABLE))
        talk.script, tools = [DONE], Orders()
        assert talk.hold(tools).outcome_unknown == []
        assert sorted(tools.done) == ["read", "refund"]

    def test_but_not_once_it_may_have_been(self) -> None:
        """Killed while it was made at last: the journal ends where it was about to be sent."""
        talk = Talk([BOTH])
        with pytest.raises(Parked):
            talk.hold(Orders(refund=UNAVAILABLE))
        before = len(talk.journal)
        talk.script = [DONE]
        assert talk.hold(Orders()).outcome == "ok"
        assert talk.journal[before]["role"] == "harness"
        talk.journal = talk.journal[: before + 1]
        talk.script, tools = [DONE], Orders()
        answer = talk.hold(tools)
        assert tools.done == []
        assert answer.outcome_unknown == [{"tool": "refund", "arguments": {"order": "7"}}]

    def test_a_call_that_got_no_answer_is_not_repeated_and_the_row_says_so(self) -> None:
        talk, tools = Talk([BOTH, DONE]), Orders(refund=ToolTransportError("cut off"))
        answer = talk.hold(tools)
        assert sorted(tools.done) == ["read", "refund"]
        assert answer.outcome == "ok"
        assert answer.outcome_unknown == [{"tool": "refund", "arguments": {"order": "7"}}]
        assert "unknown" in talk.requests[-1]["messages"][-2]["content"]

    def test_nor_one_that_ran_out_of_time(self) -> None:
        class Slow(Orders):
            async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
                await asyncio.sleep(60)
                return await super().call(name, arguments)

        answer = Talk([BOTH]).hold(Slow(), seconds=0.5)
        assert answer.outcome == "budget"
        assert answer.outcome_unknown == [{"tool": "refund", "arguments": {"order": "7"}}]
        assert 0.5 < answer.seconds < 10

    def test_what_others_have_done_by_then_is_in_the_row(self) -> None:
        class Hanging(Orders):
            async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
                if name == "read":
                    await asyncio.sleep(60)
                return await super().call(name, arguments)

        tools = Hanging()
        answer = Talk([BOTH]).hold(tools, seconds=0.5)
        assert tools.done == ["refund"]
        assert (answer.outcome, answer.tool_calls) == ("budget", 1)
        assert answer.outcome_unknown == []
        assert answer.calls_done == [{"tool": "refund", "arguments": {"order": "7"}}]

    def test_what_a_tool_says_has_failed_is_not_done(self) -> None:
        refused = ToolResult(True, "There is no such order.")
        answer = Talk([BOTH, DONE]).hold(Orders(refund=refused))
        assert (answer.outcome, answer.calls_done) == ("ok", [])

    def test_what_the_tool_itself_says_to_be_down_is_waited_for_where_that_is_safe(self) -> None:
        outage = ToolResult(True, "The database is down.", outage="database")
        with pytest.raises(Parked, match="database is down"):
            Talk([BOTH]).hold(Orders(read=outage))
        assert Talk([BOTH, DONE]).hold(Orders(refund=outage)).outcome == "ok"

    def test_who_is_not_patient_is_told_at_once(self) -> None:
        answer = Talk([BOTH]).hold(Orders(read=UNAVAILABLE), patient=False)
        assert (answer.outcome, answer.tool_calls) == ("transport", 1)
        assert Talk([Turn(status=503)]).hold(Orders(), patient=False).outcome == "model"

    def test_its_time_is_what_led_to_something_over_all_that_hold_it(self) -> None:
        class Thinking(Orders):
            async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
                await asyncio.sleep(0.2)
                return await super().call(name, arguments)

        talk = Talk([calls(("read", {"order": "7"})), Turn(status=503, delay=1.0)])
        with pytest.raises(Parked):
            talk.hold(Thinking(), seconds=30)
        before = talk.journal[-1]["trace"]["spent"]
        assert before > 0.2
        talk.script, began = [DONE], time.perf_counter()
        answer = talk.hold(Orders(), seconds=30)
        assert before < answer.seconds < before + time.perf_counter() - began
        # What was used up before it was interrupted is used up.
        del talk.journal[-1]
        talk.journal[-1]["trace"]["spent"] = 30
        assert talk.hold(Orders(), seconds=30).outcome == "budget"

    def test_time_in_which_the_model_server_hangs_is_not_the_row_s(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model, "_GREETING", 0.2)
        # It takes connections, and says nothing, as what was sent SIGSTOP.
        with socket.create_server(("127.0.0.1", 0)) as hung:
            url = f"http://127.0.0.1:{hung.getsockname()[1]}/v1"
            with pytest.raises(Parked) as parked:
                Talk([]).hold_with(url, Orders(), patient=True, seconds=0.2)
            assert (parked.value.what, parked.value.suspicion) == (parking.MODEL, 1)
            impatient = Talk([]).hold_with(url, Orders(), patient=False, seconds=0.2)
        assert impatient.outcome == "model"
        # One that is slow is there.
        slow = Talk([says("", delay=60)]).hold(Orders(), seconds=0.2)
        assert slow.outcome == "budget"


@pytest.mark.parametrize(
    ("status", "suspicion"),
    [(400, None), (422, None), (401, 1), (404, 1), (429, 1), (503, 1), (500, 2)],
)
def test_whose_fault_a_failed_request_is(status: int, suspicion: int | None) -> None:
    async def main(base_url: str) -> None:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="x") as client:
            once = Model(client, MODEL).asking_once()
            await once.reply([], temperature=0, completion_tokens=9, options={})

    with ScriptedModel([Turn(status=status)]) as server, pytest.raises(ModelError) as failure:
        asyncio.run(main(server.base_url))
    assert len(server.requests) == 1
    unavailable = isinstance(failure.value, ModelUnavailableError)
    assert (failure.value.suspicion if unavailable else None) == suspicion  # type: ignore[attr-defined]


@pytest.mark.parametrize("body", ["<html>Back soon.</html>", "[", "null", '{"choices": "x"}'])
def test_a_success_that_is_no_completion_is_an_outage(body: str) -> None:
    """A gateway's page while it is down for maintenance."""

    class Page(LoopbackServer):
        def routes(self) -> list[Route]:
            return [Route("/v1/chat/completions", self.answer, methods=["POST"])]

        async def answer(self, _request: Request) -> Response:
            kind = "text/html" if body.startswith("<") else "application/json"
            return Response(body, media_type=kind)

    async def main(base_url: str) -> None:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="x") as client:
            once = Model(client, MODEL).asking_once()
            await once.reply([], temperature=0, completion_tokens=9, options={})

    with Page() as server, pytest.raises(ModelUnavailableError) as failure:
        asyncio.run(main(server.base_url))
    assert failure.value.suspicion == 2


# A batch


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(parking, "_FIRST", 0.01)
    monkeypatch.setattr(parking, "_LONGEST", 0.05)
    return open_engine(f"sqlite:///{tmp_path / 'state.db'}")


def tasks_of(number: int) -> list[Task]:
    return [Task(f"t{n}", {"question": f"question {n}"}) for n in range(number)]


def run(
    engine: Engine, tasks: Sequence[Task], base_url: str, tools: Any = None, **more: Any
) -> BatchReport:
    spec = spec_of(**more)
    batch = open_batch(engine, spec, tasks, model=MODEL)

    async def main() -> BatchReport:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="x") as client:
            return await run_batch(
                spec,
                batch=batch,
                model=Model(client, MODEL),
                tools=tools or Orders(),
                engine=engine,
            )

    return asyncio.run(main())


def reads_and_answers(body: dict[str, Any]) -> Turn:
    if len(body["messages"]) == 2:
        return calls(("read", {"order": "7"}))
    return DONE


def question(body: dict[str, Any]) -> str:
    text: str = body["messages"][1]["content"]
    return text


def test_a_model_server_that_is_down_costs_no_row(engine: Engine) -> None:
    refused = Counter[int]()

    def script(body: dict[str, Any]) -> Turn:
        status = [429, 503, 502, 401][refused.total() % 4]
        if 10 <= len(server.requests) < 30:
            refused[status] += 1
            return Turn(status=status)
        return reads_and_answers(body)

    with ScriptedModel(script) as server:
        report = run(engine, tasks_of(20), server.base_url)
    assert report.outcomes == {"ok": 20}
    assert refused.total() == 20
    # What was refused was asked again, by whom it concerned and by nobody else.
    assert len(server.requests) == 40 + refused.total()


def test_a_model_server_that_hangs_costs_no_row(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped for longer than a row has time; what it was asked then is asked again."""
    monkeypatch.setattr(pulse, "SILENCE", 0.2)
    monkeypatch.setattr(model, "_GREETING", 0.2)
    said: list[str] = []
    going_on = threading.Timer(3.0, lambda: os.kill(server.pid, signal.SIGCONT))

    def progress(done: int, _total: int, _outcomes: Mapping[str, int]) -> None:
        if done == 8:
            os.kill(server.pid, signal.SIGSTOP)
            going_on.start()

    with scripted_process({"answer": "Done."}) as server:
        spec = spec_of(limits={"seconds": 1.5})
        batch = open_batch(engine, spec, tasks_of(24), model=MODEL)

        async def main() -> BatchReport:
            async with openai.AsyncOpenAI(base_url=server.base_url, api_key="x") as client:
                return await run_batch(
                    spec,
                    batch=batch,
                    model=Model(client, MODEL),
                    tools=Orders(),
                    engine=engine,
                    progress=progress,
                    say=said.append,
                )

        report = asyncio.run(main())
    assert report.outcomes == {"ok": 24}
    assert "rows that need the model server wait for it" in said[0]
    assert report.latency_p95 < 1.5 < report.seconds


def test_a_row_that_the_server_cannot_stand_sinks_no_other(engine: Engine) -> None:
    def script(body: dict[str, Any]) -> Turn:
        return Turn(status=500) if question(body) == "question 3" else reads_and_answers(body)

    with ScriptedModel(script) as server:
        report = run(engine, tasks_of(12), server.base_url)
    assert report.outcomes == {"ok": 11, "model": 1}
    assert Counter(map(question, server.requests))["question 3"] == 6


def test_rows_that_need_a_server_that_is_down_are_parked_and_others_go_on(engine: Engine) -> None:
    tools = Orders(read=UNAVAILABLE)
    tools.down["read"] = ToolUnavailableError("orders", 0.01, "it is down")
    answered_meanwhile = []

    def script(body: dict[str, Any]) -> Turn:
        number = int(question(body).split()[1])
        if number % 2:
            if len(body["messages"]) == 2:
                return calls(("read", {"order": "7"}))
            return DONE
        answered_meanwhile.append(number)
        if len(answered_meanwhile) == 15:
            tools.down.clear()
        return DONE

    with ScriptedModel(script) as server:
        # As many as need the tool begin before the others: they do not take their places.
        report = run(engine, tasks_of(30), server.base_url, tools, concurrency=2)
    assert report.outcomes == {"ok": 30}
    assert len(answered_meanwhile) == 15
    assert tools.done == ["read"] * 15


def test_a_batch_that_waits_too_long_ends_and_is_continued(engine: Engine) -> None:
    tools = Orders(read=ToolUnavailableError("orders", 0.01, "it is down"))

    def script(body: dict[str, Any]) -> Turn:
        return DONE if question(body) in ("question 0", "question 1") else reads_and_answers(body)

    with ScriptedModel(script) as server:
        report = run(engine, tasks_of(5), server.base_url, tools, wait_minutes=0.005)
        assert (report.ending.kind, report.ending.what) == ("waiting", "orders")
        assert "it is down" in report.ending.reason
        assert (report.outcomes, report.tasks) == ({"ok": 2}, 5)
        (found,) = waiting.waiting(engine, "clerk")
        assert (found.batch_id, found.resume_at) == (report.batch_id, report.resume_at)
        asked = len(server.requests)

        tools.down.clear()
        again = run(engine, tasks_of(5), server.base_url, tools)
    assert (again.batch_id, again.resumed, again.ending.kind) == (report.batch_id, 2, "finished")
    assert again.outcomes == {"ok": 5}
    assert waiting.waiting(engine, "clerk") == []
    # The turn before the call had been journalled.
    assert len(server.requests) == asked + 3


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"tokens": 100}, "of 100 tokens"),
        ({"tool_calls": 3}, "3 of 3 tool calls"),
        ({"seconds": 0.001}, "of 0.001 seconds"),
    ],
)
def test_a_budget_that_is_used_up_ends_a_batch_that_goes_on_with_a_larger_one(
    engine: Engine, limits: dict[str, Any], said: str
) -> None:
    tools = Orders()
    with ScriptedModel(reads_and_answers) as server:
        report = run(engine, tasks_of(10), server.base_url, tools, batch_limits=limits)
        assert report.ending.kind == "budget"
        assert said in report.ending.reason
        assert report.outcomes.total() < 10  # type: ignore[attr-defined]
        assert set(report.outcomes) <= {"ok"}
        spent = spending.spent(engine, report.batch_id)
        if "tool_calls" in limits:
            assert len(tools.done) == 3
        if "tokens" in limits:
            # What was under way when it was reached has been paid for as well.
            assert 100 <= spent.tokens <= 100 + 4 * 15
        still = run(engine, tasks_of(10), server.base_url, tools, batch_limits=limits)
        assert (still.batch_id, still.ending.kind) == (report.batch_id, "budget")
        whole = run(engine, tasks_of(10), server.base_url, tools)
    assert (whole.batch_id, whole.outcomes) == (report.batch_id, {"ok": 10})
    assert len(server.requests) == 20
    assert len(tools.done) == 10
    # Of all three runs together, though each of them has seen a part.
    assert (whole.prompt_tokens, whole.completion_tokens) == (200, 100)
    assert (whole.answered, whole.seconds > still.seconds > report.seconds) == (10, True)
    assert whole.tokens_per_second == 100 / whole.seconds


def test_calls_whose_results_are_set_aside_are_spent(engine: Engine) -> None:
    """One of two calls of a turn was made, and the other is waited for."""
    tools = Orders(read=ToolUnavailableError("orders", 0.01, "it is down"))
    script = [BOTH, BOTH, says({"answer": "Done."})]
    with ScriptedModel(script) as server:
        report = run(engine, tasks_of(3), server.base_url, tools, wait_minutes=0.005)
    assert (report.ending.kind, report.outcomes, report.answered) == ("waiting", {"ok": 1}, 1)
    assert tools.done == ["refund"] * 2
    spent = spending.spent(engine, report.batch_id)
    assert (spent.tool_calls, spent.prompt_tokens, spent.completion_tokens) == (2, 30, 15)


def test_one_task_has_a_limit_of_tokens_too(engine: Engine) -> None:
    with ScriptedModel(lambda _: calls(("read", {"order": "7"}))) as server:
        limits = {"tokens": 30, "turns": 9, "tool_calls": 9}
        run(engine, tasks_of(1), server.base_url, limits=limits)
    assert len(server.requests) == 2


def test_the_row_in_the_database_names_what_is_unknown(engine: Engine) -> None:
    with ScriptedModel([calls(("refund", {"order": "7"})), DONE]) as server:
        tools = Orders(refund=ToolTransportError("cut off"))
        report = run(engine, tasks_of(1), server.base_url, tools)
    (answer,) = read_answers(engine, report.batch_id)
    assert answer.outcome_unknown == [{"tool": "refund", "arguments": {"order": "7"}}]


def test_a_rerun_repeats_no_call_that_is_done_and_may_not_be_repeated(engine: Engine) -> None:
    """The row stays as it is, and says why; one that has only read is answered anew."""

    def script(body: dict[str, Any]) -> Turn:
        if len(body["messages"]) > 2:
            return Turn(status=400)
        tool = "refund" if question(body) == "question 1" else "read"
        return calls((tool, {"order": "7"}))

    with ScriptedModel(script) as server:
        report = run(engine, tasks_of(2), server.base_url)
    assert report.outcomes == {"model": 2}
    rerun = rerun_failed(engine, spec_of(), model=MODEL)
    left = unanswered(engine, rerun.batch_id, after=0, limit=9)
    assert [task.task_id for task in left] == ["t0"]
    (kept,) = read_answers(engine, rerun.batch_id)
    assert (kept.task_id, kept.outcome) == ("t1", "model")
    assert kept.calls_done == [{"tool": "refund", "arguments": {"order": "7"}}]


def test_rows_follow_the_load_of_the_server(engine: Engine) -> None:
    """As many at once as have room, from a server that tells."""
    from agent_pipelines.agents.load import Load

    most = 0

    class Server:
        async def load(self) -> Load:
            nonlocal most
            return Load(waiting=0, kv_cache=0.1, preemptions=0)

        async def counters(self) -> None:
            return None

    under_way = 0

    @asynccontextmanager
    async def counted() -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        yield
        under_way -= 1

    class Counting(Orders):
        async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
            async with counted():
                # Long enough for the server to be looked at, and for others to begin.
                await asyncio.sleep(0.5)
                return await super().call(name, arguments)

    spec = spec_of(concurrency="auto")
    batch = open_batch(engine, spec, tasks_of(60), model=MODEL)

    async def main(base_url: str) -> BatchReport:
        async with openai.AsyncOpenAI(base_url=base_url, api_key="x") as client:
            return await run_batch(
                spec,
                batch=batch,
                model=Model(client, MODEL, Server()),
                tools=Counting(),
                engine=engine,
            )

    with ScriptedModel(reads_and_answers) as server:
        report = asyncio.run(main(server.base_url))
    assert report.outcomes == {"ok": 60}
    assert most > 8


# Without a run


def waiting_batch(now: datetime, waits: int = 1) -> WaitingBatch:
    after = waiting.back_off(waits)
    return WaitingBatch("b", "model", "it is down", waits, now + after / 5, now + after, {})


def test_a_waiting_batch_is_started_when_what_was_down_answers_or_to_see() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    batch = waiting_batch(now)
    assert not waiting.is_due(batch, lambda _: True, now)
    assert waiting.is_due(batch, lambda what: what == "model", now + timedelta(minutes=1))
    assert not waiting.is_due(batch, lambda _: False, now + timedelta(minutes=4))
    assert waiting.is_due(batch, lambda _: False, now + timedelta(minutes=5))
    gaps = [waiting.back_off(waits) for waits in range(1, 9)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == waiting.back_off(1_000_000) == timedelta(hours=1)


def test_it_goes_on_though_its_index_has_moved_on_meanwhile(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    spec, now = spec_of(), {"model": MODEL, "snapshot": Snapshot("docs", 2)}
    begun = open_batch(engine, spec, tasks_of(3), model=MODEL, snapshot=Snapshot("docs", 1))
    record_answer(engine, begun, Answer("t0", "ok"))
    waiting.wait(engine, begun.batch_id, "orders", "it is down")
    resumed = resume(engine, spec, begun.batch_id, **now)
    assert resumed is not None
    assert (resumed.batch_id, resumed.answered, resumed.tasks) == (begun.batch_id, 1, 3)
    assert resumed.snapshot == Snapshot("docs", 2)
    # Another agent than the one that began it answers otherwise.
    assert resume(engine, spec_of(instructions="Guess."), begun.batch_id, **now) is None
    assert resume(engine, spec, "no such batch", **now) is None


def test_it_is_started_once_and_put_off_until_it_is_open_again(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    spec = spec_of()
    batch = open_batch(engine, spec, tasks_of(1), model=MODEL)
    waiting.remember(engine, batch.batch_id, {"run_config": {"ops": {}}})
    first = waiting.wait(engine, batch.batch_id, "orders", "it is down")
    (found,) = waiting.waiting(engine, "clerk")
    assert (found.waits, found.waits_for, found.reason) == (1, "orders", "it is down")
    assert (found.resumption, found.resume_at) == ({"run_config": {"ops": {}}}, first)
    assert waiting.claim(engine, found)
    assert not waiting.claim(engine, found)
    (claimed,) = waiting.waiting(engine, "clerk")
    assert claimed.resume_at > first
    # Nothing answered: longer. Something: as at first.
    assert waiting.wait(engine, batch.batch_id, "orders", "still") > claimed.resume_at
    waiting.wait(engine, batch.batch_id, "orders", "again", answered=True)
    assert waiting.waiting(engine, "clerk")[0].waits == 1

    # Other work of the same agent takes its place.
    other = open_batch(engine, spec, tasks_of(2), model=MODEL)
    waiting.supersede(engine, other.batch_id)
    assert waiting.waiting(engine, "clerk") == []
    with engine.connect() as connection:
        states = connection.execute(select(tables.batches.c.state)).scalars().all()
    assert sorted(states) == ["running", "stopped"]
