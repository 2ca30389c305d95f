"""`python -m tests.bench.tool_calls`: what our shell and our client add to a tool call over mTLS.

Belongs here: the same tool on our shell, called by our client, and on the bare SDK, called by its
own, by turns in one run. Does not belong here: what either does when something fails.
"""

import asyncio
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
import numpy as np
import psutil  # type: ignore[import-untyped]
import typer
import uvicorn
from mcp.server import MCPServer
from pydantic import BaseModel
from rich.console import Console

from agent_pipelines.terminal import passed_text, table
from agent_pipelines.toolservers.shell import TLS, Options, serve
from tests.certificates import Authority
from tests.loopback import free_port
from tests.processes import until
from tests.shell_server import ROOT, connected

_HOST = "127.0.0.1"

#: Calls at once, and what the slowest of a hundred may take in milliseconds, on two cores.
_LIMITS = {1: 10.0, 32: 60.0}

#: What our shell and client may add to the median, of the bare SDK's.
_MAY_ADD = 0.25

#: Before anything is measured: connections, caches and the tools' schemas.
_WARM_SECONDS = 1.0

Call = Callable[[], Awaitable[None]]
Client = Callable[[str], AbstractAsyncContextManager[Call]]


class Passage(BaseModel):
    """What a tool returns: a small structured result."""

    document_id: str
    title: str
    text: str


@dataclass(frozen=True)
class Files:
    """Of both ends."""

    ca: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]


@dataclass
class Measured:
    """Milliseconds of each call, calls a second of each turn, and CPU seconds of both ends."""

    name: str
    at_once: int
    milliseconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: float = 0.0

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.milliseconds, share))


def build() -> MCPServer:
    """The same tool for both: it does nothing, so that all that is seen is on the way to it."""
    server = MCPServer("bench", log_level="WARNING")

    @server.tool()
    async def fetch(document_id: str) -> Passage:
        return Passage(document_id=document_id, title="Restart", text="Restart the pod. " * 20)

    return server


async def _ready() -> None:
    return None


def serve_ours(port: int, files: Files) -> None:
    """As `agent-pipelines tools` serves it, with a log line for each call."""
    options = Options(port=port, probes_port=free_port(), tls=TLS(*files.server, files.ca))
    asyncio.run(serve(build(), ready=_ready, options=options))


def serve_bare(port: int, files: Files) -> None:
    """As the SDK's documentation has it, on the same event loop."""
    config = uvicorn.Config(
        build().streamable_http_app(json_response=True, stateless_http=True),
        host=_HOST,
        port=port,
        ssl_certfile=files.server[0],
        ssl_keyfile=files.server[1],
        ssl_ca_certs=str(files.ca),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        log_level="warning",
        access_log=False,
    )
    asyncio.run(uvicorn.Server(config).serve())


_ARGUMENTS = {"document_id": "runbooks/restart.md"}


def _client_ours(files: Files) -> Client:
    # Brings Dagster, which the servers need not wait for.
    from resources.tools import ToolServerResource

    @asynccontextmanager
    async def connect(url: str) -> AsyncIterator[Call]:
        resource = ToolServerResource(
            name="bench",
            url=url,
            ca=str(files.ca),
            cert=str(files.client[0]),
            key=str(files.client[1]),
        )
        async with resource.session() as session:

            async def call() -> None:
                result = await session.call("fetch", _ARGUMENTS)
                assert not result.is_error

            yield call

    return connect


def _client_bare(files: Files) -> Client:
    @asynccontextmanager
    async def connect(url: str) -> AsyncIterator[Call]:
        tls = ssl.create_default_context(cafile=str(files.ca))
        tls.load_cert_chain(*files.client)
        async with connected(url, tls=tls) as client:

            async def call() -> None:
                result: Any = await client.call_tool("fetch", _ARGUMENTS)
                assert not result.is_error

            yield call

    return connect


async def _turn(call: Call, at_once: int, seconds: float) -> tuple[list[float], float]:
    """Milliseconds of each call, and calls a second."""
    taken: list[float] = []
    began = time.perf_counter()
    end = began + seconds

    async def work() -> None:
        while (started := time.perf_counter()) < end:
            await call()
            taken.append(1000 * (time.perf_counter() - started))

    await asyncio.gather(*(work() for _ in range(at_once)))
    return taken, len(taken) / (time.perf_counter() - began)


async def _measure(
    servers: dict[str, tuple[str, psutil.Process]],
    clients: dict[str, Client],
    rounds: int,
    seconds: float,
) -> list[Measured]:
    results = {
        (name, at_once): Measured(name, at_once) for at_once in _LIMITS for name in ("bare", "ours")
    }
    for number in range(rounds):
        # By turns, so that whatever else the machine does falls on both.
        order = ("bare", "ours") if number % 2 else ("ours", "bare")
        for at_once in _LIMITS:
            for name in order:
                url, process = servers[name]
                result = results[name, at_once]
                async with clients[name](url) as call:
                    await _turn(call, at_once, _WARM_SECONDS)
                    result.cpu -= _cpu(process)
                    taken, rate = await _turn(call, at_once, seconds)
                    result.cpu += _cpu(process)
                result.milliseconds += taken
                result.rates.append(rate)
    return list(results.values())


def _cpu(server: psutil.Process) -> float:
    """Seconds, of the server and of this process."""
    times = server.cpu_times()
    return float(times.user + times.system) + time.process_time()


@contextmanager
def _running(name: str, files: Files) -> Iterator[tuple[str, psutil.Process]]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.tool_calls", "server", name, str(port)]
        + [str(path) for path in (files.ca, *files.server)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    url = f"https://{_HOST}:{port}/mcp"
    tls = ssl.create_default_context(cafile=str(files.ca))
    tls.load_cert_chain(*files.client)

    def up() -> bool:
        assert process.poll() is None, f"the {name} server has ended"
        try:
            return httpx2.get(url.removesuffix("mcp"), verify=tls).status_code == 404
        except httpx2.TransportError:
            return False

    try:
        until(up, 120, f"the {name} server")
        yield url, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each.")] = 6,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long a turn takes.")] = 4.0,
) -> None:
    """Measure both by turns. Exit code 1: ours adds more than it may, or takes longer."""
    if context.invoked_subcommand:
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        authority = Authority(Path(folder) / "tls")
        files = Files(
            authority.pem, authority.issue("server", _HOST), authority.issue("client", "bench")
        )
        servers = {name: stack.enter_context(_running(name, files)) for name in ("bare", "ours")}
        clients = {"bare": _client_bare(files), "ours": _client_ours(files)}
        results = asyncio.run(_measure(servers, clients, rounds, seconds))
    bare = {result.at_once: result for result in results if result.name == "bare"}
    rows, passed = [], True
    for result in results:
        added = result.percentile(50) / bare[result.at_once].percentile(50) - 1
        fine = added <= _MAY_ADD and result.percentile(99) < _LIMITS[result.at_once]
        ours = result.name == "ours"
        passed = passed and (fine or not ours)
        rows.append(
            (
                str(result.at_once),
                result.name,
                f"{np.median(result.rates):,.0f}",
                f"{result.percentile(50):.2f}",
                f"{result.percentile(99):.2f}",
                f"{added:+.0%}" if ours else "",
                f"{1000 * result.cpu / len(result.milliseconds):.2f}",
                passed_text(fine) if ours else "",
                f"{len(result.milliseconds):,}",
            )
        )
    columns = (
        *("at once", "shell and client", "calls/s", "p50 ms", "p99 ms", "p50 added"),
        *("CPU ms", "", "n"),
    )
    Console(width=100).print(table(columns, rows))
    if not passed:
        raise typer.Exit(1)


@app.command(hidden=True)
def server(name: str, port: int, ca: Path, cert: Path, key: Path) -> None:
    """One of the two, in a process of its own."""
    files = Files(ca, (cert, key), (cert, key))
    {"ours": serve_ours, "bare": serve_bare}[name](port, files)


if __name__ == "__main__":
    app()
