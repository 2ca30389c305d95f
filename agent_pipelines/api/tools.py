"""The sessions with tool servers: one each, shared by all agents of the API.

Belongs here: opening each when it is first needed, and again later where it could not be. Does not
belong here: how one is opened (handed in), or what becomes of calls while a server is down
(`agents/guard.py`).
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Self

from agent_pipelines.agents.breaker import Breaker
from agent_pipelines.agents.guard import GuardedSession, ToolServers
from agent_pipelines.agents.tools import ToolTransportError

#: Opens a session for as long as its block lasts.
Opening = Callable[[], AbstractAsyncContextManager[GuardedSession]]

#: Seconds in which nobody tries again to reach a server that could not be reached: all who come
#: meanwhile are told the same.
_AGAIN = 5.0


class Sessions:
    """Those of the servers that some agent uses, closed with its block."""

    def __init__(self, openings: Mapping[str, Opening]) -> None:
        self.breakers: dict[str, Breaker] = {}
        """Of the servers that were reached."""
        self._openings = openings
        self._opened: dict[str, GuardedSession] = {}
        self._failed: dict[str, tuple[float, ToolTransportError]] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def of(self, servers: Sequence[str]) -> ToolServers | None:
        """These servers as one; None where there are none.

        Raises:
            UserError: the files or the token for one of them cannot be used.
            ToolTransportError: one of them does not answer.
        """
        if not servers:
            return None
        return ToolServers({server: await self._session(server) for server in servers})

    async def check(self) -> None:
        """Ask every server for its tools.

        Raises:
            UserError: the files, the token or the tools of one of them are not right.
            ToolTransportError: one of them does not answer.
        """
        for server in self._openings:
            await (await self._session(server)).list_tools()

    async def _session(self, server: str) -> GuardedSession:
        async with self._turns[server]:
            if server in self._opened:
                return self._opened[server]
            if server in self._failed:
                since, before = self._failed[server]
                if time.monotonic() - since < _AGAIN:
                    raise before
            try:
                session = await self._stack.enter_async_context(self._openings[server]())
            except ToolTransportError as error:
                self._failed[server] = (time.monotonic(), error)
                raise
            self.breakers[server] = session.breaker
            self._opened[server] = session
            return session
