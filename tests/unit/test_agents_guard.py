"""What stands between an agent and a tool server: turns, the breaker, one repetition, counts."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import pytest

from agent_pipelines.agents.breaker import Breaker, BreakerSettings
from agent_pipelines.agents.guard import GuardedSession
from agent_pipelines.agents.tally import Tally
from agent_pipelines.agents.tools import (
    ToolInfo,
    ToolResult,
    ToolTransportError,
    ToolUnavailableError,
)
from agent_pipelines.errors import UserError

T = TypeVar("T")

OK = ToolResult(False, "fine")
ERROR = ToolResult(True, "no such order")
OUTAGE = ToolResult(True, "the database is down", outage="PostgreSQL")
GONE = ToolTransportError("http://x/mcp: ConnectError")


class Server:
    """Answers what it is told to, the last of it for ever."""

    def __init__(self, *answers: ToolResult | Exception | float) -> None:
        self.answers = list(answers)
        self.sent = 0
        self.at_once = 0
        self.peak = 0

    async def list_tools(self) -> Sequence[ToolInfo]:
        return [ToolInfo("read", "", {}, True), ToolInfo("refund", "", {}, False)]

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        self.sent += 1
        self.at_once += 1
        self.peak = max(self.peak, self.at_once)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            await asyncio.sleep(answer if isinstance(answer, float) else 0)
        finally:
            self.at_once -= 1
        if isinstance(answer, Exception):
            raise answer
        return OK if isinstance(answer, float) else answer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Guarded:
    """A guarded server with everything that can be seen of it."""

    def __init__(self, server: Server, *, seconds: float = 5.0, **more: Any) -> None:
        self.clock, self.tally, self.server = Clock(), Tally(), server
        self.breaker = Breaker(BreakerSettings(), clock=self.clock)
        self.session = GuardedSession(
            "orders",
            server,
            breaker=self.breaker,
            tally=self.tally,
            seconds=seconds,
            **{"concurrency": 8, **more},
        )

    def run(self, use: Callable[[GuardedSession], Awaitable[T]]) -> T:
        async def main() -> T:
            await self.session.list_tools()
            return await use(self.session)

        return asyncio.run(main())

    def outcomes(self, tool: str) -> dict[str, int]:
        return {o: n for (_, t, o), n in self.tally.outcomes.items() if t == tool}


async def outcome(call: Awaitable[Any]) -> type:
    """How a call ended."""
    try:
        await call
    except ToolTransportError as error:
        return type(error)
    return ToolResult


def times(
    number: int, tool: str, seen: list[type]
) -> Callable[[GuardedSession], Awaitable[list[type]]]:
    async def use(session: GuardedSession) -> list[type]:
        for _ in range(number):
            seen.append(await outcome(session.call(tool, {})))
        return seen

    return use


def test_what_may_not_be_repeated_is_sent_once() -> None:
    guarded = Guarded(Server(GONE, OK))
    assert guarded.run(times(1, "refund", [])) == [ToolTransportError]
    assert guarded.server.sent == 1


def test_what_may_be_repeated_is_sent_once_more_after_a_transport_failure_only() -> None:
    guarded = Guarded(Server(GONE, ERROR, OUTAGE, OK))
    assert guarded.run(times(2, "read", [])) == [ToolResult, ToolResult]
    assert guarded.server.sent == 3
    assert guarded.outcomes("read") == {"transport": 1, "error": 1, "outage": 1}


def test_three_failures_open_it_and_then_nothing_is_sent() -> None:
    guarded = Guarded(Server(GONE))
    seen = guarded.run(times(5, "refund", []))
    assert seen == [ToolTransportError] * 3 + [ToolUnavailableError] * 2
    assert guarded.server.sent == 3
    assert guarded.outcomes("refund") == {"transport": 3, "unavailable": 2}

    async def ask(session: GuardedSession) -> None:
        with pytest.raises(ToolUnavailableError, match="retry after 30 s") as refused:
            await session.call("refund", {})
        assert "orders: tool unavailable" in str(refused.value)
        assert "ConnectError" in str(refused.value)

    guarded.run(ask)


def test_a_dependency_that_is_down_opens_it_and_an_ordinary_error_is_an_answer() -> None:
    guarded = Guarded(Server(OUTAGE, OUTAGE, ERROR, OUTAGE, OUTAGE, OUTAGE))
    assert guarded.run(times(6, "refund", [])) == [ToolResult] * 6
    assert guarded.breaker.state == "open"

    async def ask(session: GuardedSession) -> None:
        with pytest.raises(ToolUnavailableError, match="PostgreSQL is down"):
            await session.call("refund", {})

    guarded.run(ask)


def test_one_probe_of_many_callers_and_then_all_of_them() -> None:
    guarded = Guarded(Server(GONE, GONE, GONE, 0.05))
    guarded.run(times(3, "refund", []))
    guarded.clock.now += 30

    async def ask(session: GuardedSession) -> list[type]:
        many = [outcome(session.call("refund", {})) for _ in range(8)]
        return list(await asyncio.gather(*many))

    assert sorted(map(str, guarded.run(ask))) == sorted(
        map(str, [ToolResult] + [ToolUnavailableError] * 7)
    )
    assert guarded.server.sent == 4
    assert guarded.breaker.state == "closed"


def test_cancelling_is_no_failure_and_frees_the_probes_place() -> None:
    guarded = Guarded(Server(GONE, GONE, GONE, 60.0, OK))
    guarded.run(times(3, "refund", []))
    guarded.clock.now += 30

    async def give_up(session: GuardedSession) -> None:
        probe = asyncio.create_task(session.call("refund", {}))
        await asyncio.sleep(0.01)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe

    guarded.run(give_up)
    assert guarded.breaker.state == "half open"
    assert guarded.outcomes("refund")["cancelled"] == 1
    assert guarded.run(times(1, "refund", [])) == [ToolResult]
    assert guarded.breaker.state == "closed"


def test_a_call_has_one_deadline_however_often_it_is_sent() -> None:
    guarded = Guarded(Server(60.0), seconds=0.3)

    async def ask(session: GuardedSession) -> None:
        with pytest.raises(ToolTransportError, match=r"no answer within 0\.3 s"):
            await session.call("read", {})

    guarded.run(ask)
    # Its time was up: nothing is left for a second attempt.
    assert guarded.server.sent == 1
    assert guarded.outcomes("read") == {"transport": 1}


def test_no_more_calls_at_once_than_allowed() -> None:
    guarded = Guarded(Server(0.02), concurrency=3)

    async def ask(session: GuardedSession) -> None:
        await asyncio.gather(*(session.call("read", {}) for _ in range(10)))

    guarded.run(ask)
    assert guarded.server.peak == 3


def test_only_tools_that_are_allowed_are_listed_and_one_that_is_missing_is_named() -> None:
    some = Guarded(Server(OK), allowed=("read",))
    assert [tool.name for tool in asyncio.run(some.session.list_tools())] == ["read"]
    none = Guarded(Server(OK), allowed=("raed",))
    with pytest.raises(UserError, match="tool server orders: `tools` allows raed") as said:
        asyncio.run(none.session.list_tools())
    assert "read, refund" in said.value.remedy


def test_a_tally_knows_rates_and_quantiles_and_hands_out_each_call_once() -> None:
    tally = Tally()
    for number in range(1, 101):
        tally.count("orders", "read", "ok", number / 1000)
    tally.count("orders", "read", "transport", 30.5)
    tally.count("orders", "read", "cancelled")
    assert (tally.calls, tally.errors) == (101, 1)
    assert tally.success_rate == pytest.approx(100 / 101)
    assert (tally.seconds(0.5), tally.seconds(0.99), tally.seconds(1)) == (0.051, 0.1, 30.5)
    taken = tally.take_new()
    assert sum(amount.calls for amount in taken.values()) == 102
    assert tally.take_new() == {}
    tally.put_back(taken)
    assert tally.take_new() == taken
