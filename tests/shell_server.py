"""A tool server behind the shell, in a process of its own: this file, run as a program.

Belongs here: its tools, starting it, and reading what it says of itself. Does not belong here: what
is expected of it.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Any

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp.types import CallToolResult, ToolAnnotations
from prometheus_client.parser import text_string_to_metric_families

from agent_pipelines.toolservers import shell
from agent_pipelines.toolservers.outcome import outage
from tests.loopback import free_port
from tests.processes import until

ROOT = Path(__file__).parents[1]


def build() -> MCPServer:
    """Tools that answer, take their time, and fail in every way there is."""
    server = MCPServer("shelled", log_level="WARNING")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def echo(text: str) -> str:
        return text

    @server.tool()
    async def wait_for(file: str) -> str:
        while not Path(file).exists():
            await asyncio.sleep(0.01)
        return "it is there"

    @server.tool()
    async def sleep(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    @server.tool()
    def block(seconds: float) -> str:
        time.sleep(seconds)
        return "blocked"

    @server.tool()
    async def down() -> CallToolResult:
        return outage("database", "The database is down.")

    @server.tool()
    async def crash(text: str) -> str:
        raise RuntimeError(f"could not take {text}")

    return server


class Running:
    """The process, its addresses and its words."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, str],
        *,
        probes: bool,
        wait: bool = True,
        port: int | None = None,
    ) -> None:
        self.port, self.probes_port = port or free_port(), free_port() if probes else None
        self._stderr = folder / "stderr"
        scheme = "https" if "TOOLS_TLS_CERT" in settings else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}/mcp"
        arguments = [self.port, *([self.probes_port] if probes else [])]
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.shell_server", *map(str, arguments)],
                cwd=ROOT,
                env={**os.environ, **settings, "PYTHONPATH": str(ROOT)},
                stderr=stderr,
            )
        if wait:
            until(self._up, 30, "the server's health")

    def _up(self) -> bool:
        assert self.process.poll() is None, self.stderr
        try:
            return self.get("/health").status_code == 200
        except httpx2.TransportError:
            return False

    def get(self, path: str) -> httpx2.Response:
        """What is served in plain HTTP."""
        return httpx2.get(f"http://127.0.0.1:{self.probes_port or self.port}{path}", timeout=10)

    def end(self) -> int:
        """Its exit status after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every line, each of which must be JSON."""
        # The last line may be one that is being written.
        return [json.loads(line) for line in self.stderr.split("\n")[:-1]]

    def calls(self, count: int) -> list[dict[str, Any]]:
        """The lines of its calls, once there are so many: they are written after the answers."""

        def lines() -> list[dict[str, Any]]:
            return [line for line in self.log if line["message"] == "tool call"]

        until(lambda: len(lines()) >= count, 10, f"{count} calls in the log")
        return lines()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all series with these labels."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@contextmanager
def running(
    folder: Path, *, probes: bool = False, port: int | None = None, **settings: object
) -> Iterator[Running]:
    """The server with settings such as ``max_concurrent``, killed with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {f"TOOLS_{name.upper()}": str(value) for name, value in settings.items()}
    server = Running(folder, given, probes=probes, port=port)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@asynccontextmanager
async def connected(
    url: str,
    *,
    tls: SSLContext | None = None,
    headers: dict[str, str] | None = None,
    mode: str = "auto",
) -> AsyncIterator[Client]:
    """The SDK's own client."""
    transport = httpx2.AsyncHTTPTransport(verify=tls or True)
    async with (
        httpx2.AsyncClient(transport=transport, headers=headers, timeout=10) as http,
        Client(
            streamable_http_client(url, http_client=http),
            mode=mode,  # type: ignore[arg-type]
            read_timeout_seconds=10,
        ) as client,
    ):
        yield client


async def _ready() -> None:
    return None


if __name__ == "__main__":
    port, *probes_port = map(int, sys.argv[1:])
    asyncio.run(
        shell.serve(
            build(),
            ready=_ready,
            options=shell.Options.from_environment(
                port=port, probes_port=probes_port[0] if probes_port else None
            ),
        )
    )
