"""How calls reach a tool server: not too many at once, not while it is down, twice only where that
is the same as once; and counted.

Belongs here: what stands between an agent's loop and a session. Does not belong here: the session
(`resources/tool_session.py`), when a breaker opens (`breaker.py`), how counts are kept.
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_pipelines.agents.breaker import Breaker, BreakerOpenError
from agent_pipelines.agents.tally import CallOutcome, Tally
from agent_pipelines.agents.tools import (
    ToolInfo,
    ToolResult,
    ToolSession,
    ToolTransportError,
    ToolUnavailableError,
)
from agent_pipelines.errors import UserError

#: Seconds before a call that may be repeated is sent once more: a restarted replica, a connection
#: that was closed while idle. For anything longer there is the breaker.
_BEFORE_AGAIN = 0.2


class GuardedSession:
    """Implements `ToolSession`, over one that sends what it is given."""

    def __init__(
        self,
        name: str,
        session: ToolSession,
        *,
        breaker: Breaker,
        tally: Tally,
        concurrency: int,
        seconds: float,
        allowed: Collection[str] | None = None,
    ) -> None:
        """Args:
        name: of the server, for people.
        session: what sends.
        breaker: the server's.
        tally: counts every call that is sent, and every one that is not.
        concurrency: calls at once; others wait for their turn.
        seconds: for one call, once it is its turn, repetition included.
        allowed: its tools that may be used; None: all of them.
        """
        self.name = name
        self.breaker = breaker
        self._session = session
        self._tally = tally
        self._turns = asyncio.Semaphore(concurrency)
        self._seconds = seconds
        self._allowed = allowed
        self._repeatable: set[str] = set()
        self._reason = ""

    async def list_tools(self) -> Sequence[ToolInfo]:
        """The tools that may be used.

        Raises:
            UserError: one of those that are allowed does not exist.
            ToolTransportError: the server does not answer.
        """
        try:
            async with asyncio.timeout(self._seconds):
                offered = {tool.name: tool for tool in await self._session.list_tools()}
        except TimeoutError as error:
            raise ToolTransportError(
                f"{self.name}: its tools are not listed within {self._seconds:g} s"
            ) from error
        if missing := [name for name in self._allowed or () if name not in offered]:
            raise UserError(
                f"tool server {self.name}: `tools` allows {', '.join(missing)}, which it does not "
                "have",
                remedy=f"use some of: {', '.join(sorted(offered)) or 'it has none'}",
            )
        tools = [
            replace(tool, server=self.name)
            for tool in offered.values()
            if self._allowed is None or tool.name in self._allowed
        ]
        self._repeatable = {tool.name for tool in tools if tool.repeatable}
        return tools

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Call a tool when it is this call's turn.

        Raises:
            ToolUnavailableError: it was not sent, because the server is down.
            ToolTransportError: the server does not answer.
        """
        async with self._turns:
            deadline = asyncio.get_running_loop().time() + self._seconds
            if name in self._repeatable:
                try:
                    return await self._send(name, arguments, deadline)
                except ToolUnavailableError:
                    raise
                except ToolTransportError:
                    left = deadline - asyncio.get_running_loop().time()
                    if self.breaker.state != "closed" or left <= _BEFORE_AGAIN:
                        raise
                await asyncio.sleep(_BEFORE_AGAIN)
            return await self._send(name, arguments, deadline)

    async def _send(self, name: str, arguments: Mapping[str, Any], deadline: float) -> ToolResult:
        try:
            permit = self.breaker.enter()
        except BreakerOpenError as refused:
            self._tally.count(self.name, name, "unavailable")
            raise ToolUnavailableError(self.name, refused.retry_after, self._reason) from refused
        outcome: CallOutcome = "cancelled"
        well: bool | None = None
        started = time.perf_counter()
        try:
            async with asyncio.timeout_at(deadline):
                result = await self._session.call(name, arguments)
            well = result.outage is None
            outcome = "outage" if result.outage else "error" if result.is_error else "ok"
            self._reason = f"{result.outage} is down" if result.outage else self._reason
            return result
        except (ToolTransportError, TimeoutError) as error:
            well, outcome = False, "transport"
            self._reason = str(error) or f"no answer within {self._seconds:g} s"
            if isinstance(error, ToolTransportError):
                raise
            raise ToolTransportError(f"{self.name}: {self._reason}") from error
        finally:
            self.breaker.leave(permit, well)
            took = None if outcome == "cancelled" else time.perf_counter() - started
            self._tally.count(self.name, name, outcome, took)


class ToolServers:
    """Several tool servers as one `ToolSession`; `Toolbox` refuses tools of the same name."""

    def __init__(self, sessions: Mapping[str, ToolSession]) -> None:
        self._sessions = sessions
        self._of: dict[str, ToolSession] = {}

    async def list_tools(self) -> Sequence[ToolInfo]:
        """The tools of all of them."""
        tools: list[ToolInfo] = []
        for session in self._sessions.values():
            for tool in await session.list_tools():
                self._of[tool.name] = session
                tools.append(tool)
        return tools

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Call a tool of whichever server has it."""
        return await self._of[name].call(name, arguments)
