"""A stdio MCP server as a child process: one of it, kept running, and asked by many at once.

Belongs here: its start, its restarts, its end, and whether it answers. Does not belong here: what
is served to the outside (`stdio`), or how its processes are ended (`stdio_guard`).
"""

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from mcp import types
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp.types import CONNECTION_CLOSED, ToolListChangedNotification
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import RootModel, ValidationError

from agent_pipelines.errors import UserError
from agent_pipelines.toolservers import stdio_guard

_log = logging.getLogger(__name__)

#: To answer the first request of the protocol. `npx` and `uvx` may download a package before.
_START_SECONDS = 120.0

#: Between the ends of a child that keeps ending. The first restart is at once.
_FIRST_REST_SECONDS = 0.5
_LONGEST_REST_SECONDS = 30.0

#: A child that ran for as long as this ended for a reason of its own.
_STEADY_SECONDS = 30.0

#: A child that leaves a ping without an answer for as long as this is ended, and started again.
_HUNG_SECONDS = 10.0

#: A call waits as long as this for a child that is just being started.
_PATIENCE_SECONDS = 5.0

_LINES_KEPT = 20
_LINE_BYTES = 8192
_PAGES = 1000

_T = TypeVar("_T")


class Down(Exception):
    """The child did not answer, and may not even have been asked. Nothing is asked twice."""


class Slow(Exception):
    """The child is well and this one answer did not come in time. What was asked may be done."""


@dataclass(frozen=True)
class Command:
    """What to run. ``env`` is added to the few variables that every child gets."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Without its arguments, which may hold secrets."""
        return Path(self.argv[0]).name


class _Raw(types.Request[dict[str, Any], str]):
    """A request whose parameters are sent as they came."""


class _Answer(RootModel[dict[str, Any]]):
    """A result as it came."""


@asynccontextmanager
async def running(command: Command, *, call_seconds: float) -> AsyncIterator["Child"]:
    """The child, once it has answered for the first time; it ends with the block.

    Raises:
        UserError: it cannot be started, or ends without an answer.
    """
    child = Child(command, call_seconds)
    keeper = asyncio.create_task(child.keep())
    try:
        await asyncio.wait({keeper, child.began}, return_when=asyncio.FIRST_COMPLETED)
        if keeper.done():
            keeper.result()
        child.began.result()
        yield child
    finally:
        keeper.cancel()
        await asyncio.wait({keeper})


class Child:
    """Asked by any number of callers at once, over the one session there is at a time."""

    def __init__(self, command: Command, call_seconds: float) -> None:
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.name = command.name
        self.info: types.Implementation | None = None
        self.instructions: str | None = None
        self.capabilities = types.ServerCapabilities()
        #: Input schema by name, of the tools it had when last looked at.
        self.tools: Mapping[str, Mapping[str, Any]] = {}
        self._command = command
        self._call_seconds = call_seconds
        self._client: Client | None = None
        self._up = asyncio.Event()
        self._over = asyncio.Event()
        self._why = "it is being started"
        self._resting = False
        self._asking: asyncio.Task[bool] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._said: deque[str] = deque(maxlen=_LINES_KEPT)

    async def ask(
        self, method: str, params: Mapping[str, Any], on_progress: ProgressFnT | None = None
    ) -> dict[str, Any]:
        """Its answer, as it came, within ``call_seconds``. Whoever is cancelled cancels there too.

        Raises:
            MCPError: the child's own.
            Down: it is not running, ended meanwhile, or does not answer pings either.
            Slow: it answers pings, and not this.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._call_seconds
        # Towards the end of its time, to have an answer before it.
        doubt = min(2.0, self._call_seconds / 4)
        client = await self._started()
        # In a task of its own: the SDK tells the child of a cancelled request, and a child that is
        # stuck would let the caller wait until that is written.
        request = self._start(
            client.session.send_request(
                _Raw(method=method, params=dict(params)),
                _Answer,
                request_read_timeout_seconds=2 * self._call_seconds,  # ours is the one that counts
                progress_callback=on_progress,
            )
        )
        try:
            await asyncio.wait({request}, timeout=deadline - doubt - clock())
            if not request.done():
                alive = self._alive(client)
                await asyncio.wait({request}, timeout=deadline - clock())
                if not request.done():
                    if alive.done() and alive.result():
                        raise Slow(f"no answer within {self._call_seconds:g} s")
                    raise Down(f"no answer within {self._call_seconds:g} s, nor to a ping")
        finally:
            request.cancel()
        try:
            return request.result().root
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise Down(self._why) from error
            raise
        except ValidationError as error:
            # Without its text, which quotes what the child said.
            raise Down("what it answered is nothing the protocol knows") from error

    async def ready(self) -> str | None:
        """None when it answers a ping, else why it cannot."""
        client = self._client
        if client is None:
            return f"{self.name} is not running: {self._why}"
        return None if await asyncio.shield(self._alive(client)) else f"{self.name} does not answer"

    async def keep(self) -> None:
        """Run it, again and again, until cancelled.

        Raises:
            UserError: it ended before it had ever answered.
        """
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            started = clock()
            try:
                await self._run()
            # Whatever it was: an exception that left this loop would be the end of all restarts.
            except Exception as error:
                self._why = _reason(error)
            finally:
                self._client = None
                self._up.clear()
            if not self.began.done():
                raise UserError(
                    f"{self.name} does not answer as an MCP server: {self._why}"
                    + "".join(f"\n    {line}" for line in self._said),
                    remedy="try the command by itself; `--env NAME` passes a variable to it",
                )
            if clock() - started > _STEADY_SECONDS:
                failures = 0
            rest = min(_LONGEST_REST_SECONDS, _FIRST_REST_SECONDS * 2 ** (failures - 1))
            rest = rest if failures else 0.0
            failures += 1
            _log.warning("%s: %s; starts again in %g s", self.name, self._why, rest)
            if rest:
                self._resting = True
                await asyncio.sleep(rest)
                self._resting = False

    async def _run(self) -> None:
        self._over = asyncio.Event()
        async with Client(
            self._transport(self._over),
            read_timeout_seconds=_START_SECONDS,
            cache=None,
            message_handler=self._hear,
        ) as client:
            self.info, self.instructions = client.server_info, client.instructions
            self.capabilities = client.server_capabilities
            async with AsyncExitStack() as stack:
                tools = self.capabilities.tools
                if tools and tools.list_changed and _modern(client):
                    # Changes are said to those who listen only, from this era on.
                    await stack.enter_async_context(client.listen(tools_list_changed=True))
                await self._learn(client)
                self._client, self._why = client, "it ended"
                self._up.set()
                if not self.began.done():
                    self.began.set_result(None)
                await self._over.wait()
                self._client = None  # before it is ended, which may take seconds
                self._up.clear()

    @asynccontextmanager
    async def _transport(self, over: asyncio.Event) -> AsyncIterator[Any]:
        """The SDK's, with the guard in between and its standard error in our log."""
        guard = [sys.executable, "-I", "-S", stdio_guard.__file__, str(os.getpid())]
        parameters = StdioServerParameters(
            command=guard[0],
            args=[*guard[1:], *self._command.argv],
            env=dict(self._command.env),
        )
        heard, told = os.pipe()
        async with AsyncExitStack() as stack:
            listener = self._start(self._listen(heard))
            with open(told, "w") as errors:
                read, write = await stack.enter_async_context(stdio_client(parameters, errors))
            yield _Watched(read, over), write
        # What it said last says most of why it ended; a daemon that has escaped may hold the pipe.
        await asyncio.wait({listener}, timeout=0.5)
        listener.cancel()

    async def _listen(self, pipe: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb")
        )
        try:
            rest = b""
            while piece := await reader.read(_LINE_BYTES):
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._hear_line(line)
            self._hear_line(rest)
        finally:
            transport.close()

    def _hear_line(self, line: bytes) -> None:
        if text := line.decode(errors="replace").rstrip():
            self._said.append(text)
            _log.info("[%s] %s", self.name, text)

    async def _hear(self, message: Any) -> None:
        if isinstance(message, ToolListChangedNotification) and self._client is not None:
            self._start(self._learn(self._client))
        elif isinstance(message, Exception):
            _log.warning("%s wrote something that is no message on standard output", self.name)

    async def _learn(self, client: Client) -> None:
        if not self.capabilities.tools:
            return
        tools: dict[str, Mapping[str, Any]] = {}
        cursor: str | None = None
        for _ in range(_PAGES):
            asked = _Raw(method="tools/list", params={"cursor": cursor} if cursor else {})
            page = (await client.session.send_request(asked, _Answer)).root
            tools |= {tool["name"]: tool["inputSchema"] for tool in page["tools"]}
            cursor = page.get("nextCursor")
            if not cursor:
                break
        self.tools = tools

    async def _started(self) -> Client:
        """The session; waits for one that is being started, not for one that keeps ending."""
        if self._client is None and not self._resting:
            try:
                async with asyncio.timeout(min(_PATIENCE_SECONDS, self._call_seconds / 2)):
                    await self._up.wait()
            except TimeoutError:
                pass
        if self._client is None:
            raise Down(f"it is not running: {self._why}")
        return self._client

    def _alive(self, client: Client) -> asyncio.Task[bool]:
        """Whether it answers a ping; one at a time, however many want to know."""
        if self._asking is None or self._asking.done():
            self._asking = self._start(self._answers(client, self._over))
        return self._asking

    async def _answers(self, client: Client, over: asyncio.Event) -> bool:
        method = "server/discover" if _modern(client) else "ping"
        ping = self._start(client.session.send_request(_Raw(method=method, params={}), _Answer))
        await asyncio.wait({ping}, timeout=_HUNG_SECONDS)
        if not ping.done():
            ping.cancel()
            self._why = f"it did not answer a ping for {_HUNG_SECONDS:g} s"
            over.set()
            return False
        error = ping.exception()
        # Whoever refuses a ping has answered it.
        return not (isinstance(error, MCPError) and error.code == CONNECTION_CLOSED)

    def _start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it has it; nobody else needs to know


class _Watched:
    """A stream that tells when its session stops reading, which is when the child is gone."""

    def __init__(self, inner: Any, over: asyncio.Event) -> None:
        self._inner = inner
        self._over = over

    async def receive(self) -> SessionMessage | Exception:
        message: SessionMessage | Exception = await self._inner.receive()
        return message

    async def aclose(self) -> None:
        self._over.set()
        await self._inner.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        message: SessionMessage | Exception = await self._inner.__anext__()
        return message

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def _modern(client: Client) -> bool:
    return client.protocol_version in MODERN_PROTOCOL_VERSIONS


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ValidationError):
        return "its answer is nothing the protocol knows"
    return f"{error}" or type(error).__name__
