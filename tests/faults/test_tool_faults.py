"""A tool server that is killed, stopped, slow or babbles, under load: callers wait no longer than
they said, its breaker opens and closes, and what may not be repeated is never done twice."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from agent_pipelines.agents.guard import GuardedSession
from agent_pipelines.agents.tally import Tally
from agent_pipelines.agents.tools import ToolTransportError, ToolUnavailableError
from resources.tools import ToolServerResource
from tests.orders_server import Again, Fault, OrdersServer, orders

#: Seconds that a caller is ready to wait, and that a breaker stays open here.
PATIENCE, OPEN = 2.0, 0.5

CALLERS = 16


def killed(server: OrdersServer) -> Callable[[], None]:
    server.process.kill()
    server.process.wait()
    return server.start


def stopped(server: OrdersServer) -> Callable[[], None]:
    server.process.send_signal(signal.SIGSTOP)
    return lambda: server.process.send_signal(signal.SIGCONT)


def babbling(fault: Fault) -> Callable[[OrdersServer], Callable[[], None]]:
    def begin(server: OrdersServer) -> Callable[[], None]:
        server.break_with(fault)
        return lambda: server.break_with("none")

    return begin


BABBLE = [fault for fault in get_args(Fault) if fault != "none"]

FAULTS = {"killed": killed, "stopped": stopped} | {fault: babbling(fault) for fault in BABBLE}


class Load:
    """Callers that never stop calling; every order is refunded by one call of one caller."""

    def __init__(self, session: GuardedSession) -> None:
        self._session = session
        self._number = 0
        self.ended: Counter[str] = Counter()
        self.longest = 0.0

    async def caller(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._number += 1
            tool = "refund" if self._number % 2 else "read"
            started = loop.time()
            try:
                result = await self._session.call(tool, {"order": f"o{self._number}"})
                self.ended["error" if result.is_error else "ok"] += 1
            except ToolUnavailableError:
                self.ended["unavailable"] += 1
            except ToolTransportError:
                self.ended["transport"] += 1
            self.longest = max(self.longest, loop.time() - started)
            await asyncio.sleep(0.02)

    async def until(self, outcome: str, more: int) -> None:
        """Wait until that many more calls have ended so."""
        enough = self.ended[outcome] + more
        async with asyncio.timeout(30):
            while self.ended[outcome] < enough:
                await asyncio.sleep(0.02)


def sent(tally: Tally) -> int:
    return sum(n for (_, _, outcome), n in tally.outcomes.items() if outcome != "unavailable")


@pytest.mark.parametrize("fault", FAULTS)
def test_callers_are_not_kept_waiting_and_nothing_is_done_twice(fault: str, tmp_path: Path) -> None:
    tally = Tally()

    async def main(server: OrdersServer) -> Load:
        resource = ToolServerResource(
            name="orders",
            url=server.url,
            call_timeout_seconds=PATIENCE,
            connect_timeout_seconds=PATIENCE,
            breaker_open_seconds=OPEN,
        )
        async with resource.session(tally) as session:
            await session.list_tools()
            load = Load(session)
            callers = [asyncio.create_task(load.caller()) for _ in range(CALLERS)]
            await load.until("ok", 100)
            assert load.ended.keys() == {"ok"}
            end = FAULTS[fault](server)
            # Open, half open, open again: as long as it lasts, hardly anything is sent.
            await load.until("unavailable", 100)
            openings, before = session.breaker.openings, sent(tally)
            while session.breaker.openings == openings:
                await asyncio.sleep(0.05)
            assert sent(tally) - before <= CALLERS + 8
            await asyncio.to_thread(end)
            await load.until("ok", 100)
            assert session.breaker.state == "closed"
            for task in callers:
                task.cancel()
            await asyncio.wait(callers)
            return load

    with orders(tmp_path) as server:
        load = asyncio.run(main(server))
        done = server.done
    # The event loop of these callers on a busy machine is late, not minutes late.
    assert load.longest < PATIENCE + 5
    assert load.ended["transport"] >= 3
    assert load.ended["error"] == 0
    assert {times for what, times in done.items() if what.startswith("refund")} == {1}


@pytest.mark.parametrize("fault", [*BABBLE, *get_args(Again)])
def test_only_what_may_be_repeated_is_done_twice(fault: Any, tmp_path: Path) -> None:
    """By nobody: not by us, by the SDK or by the connections it keeps."""

    async def main(server: OrdersServer) -> None:
        resource = ToolServerResource(url=server.url, call_timeout_seconds=PATIENCE)
        async with resource.session() as session:
            await session.list_tools()
            server.break_with(fault)
            for tool in ("refund", "read"):
                with contextlib.suppress(ToolTransportError):
                    await session.call(tool, {"order": "7"})

    with orders(tmp_path) as server:
        asyncio.run(main(server))
        done = server.done
    assert done["refund:7"] == done["asked:refund:7"] == 1
    # A slow answer leaves no time for another attempt.
    assert (done["asked:read:7"] > 1) == (fault != "slow")
