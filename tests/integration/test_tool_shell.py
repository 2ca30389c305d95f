"""The shell around a tool server, over real HTTP and the SDK's own client: limits, tokens, origins,
timeouts, drain, and what it tells of all that.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.shared.exceptions import MCPError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.loopback import LoopbackServer
from tests.processes import until
from tests.shell_server import Running, connected, running

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}

JSON = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Small limits, all of them."""
    folder = tmp_path_factory.mktemp("shell")
    with running(
        folder,
        max_request_bytes=2000,
        max_concurrent=2,
        call_timeout_seconds=2,
        allowed_hosts="127.0.0.1:*,tools.example.com:8443",
        allowed_origins="https://console.example.com",
    ) as started:
        yield started


def call(server: Running, tool: str, **arguments: Any) -> Any:
    async def main() -> Any:
        async with connected(server.url) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(main())


def post(
    server: Running,
    tool: str,
    *,
    headers: dict[str, str],
    timeout: float = 10,
    **arguments: Any,
) -> Any:
    """A call of the older era, which needs no handshake where nothing keeps a session."""
    params = {"name": tool, "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return httpx2.post(server.url, json=message, headers={**JSON, **headers}, timeout=timeout)


@pytest.mark.parametrize("tool", ["sleep", "block"])
def test_a_call_that_takes_too_long_is_ended_and_the_model_told(server: Running, tool: str) -> None:
    """Whether it waits or keeps a thread busy."""
    errors = server.metric("mcp_tool_call_errors_total", tool_name=tool)
    result = call(server, tool, seconds=6)
    assert result.is_error
    assert f"{tool} took longer than 2 s and was stopped" in result.content[0].text
    assert server.metric("mcp_tool_call_errors_total", tool_name=tool) == errors + 1
    assert server.metric("mcp_tool_calls_in_flight", tool_name=tool) == 0


def test_a_request_that_is_too_large_is_refused_however_it_is_sent(server: Running) -> None:
    refused = server.metric("mcp_requests_refused_total", reason="size")

    async def announced() -> str:
        async with connected(server.url) as client:
            with pytest.raises(MCPError) as told:
                await client.call_tool("echo", {"text": "x" * 3000})
            # The session and its other calls go on.
            assert not (await client.call_tool("echo", {"text": "x"})).is_error
            return str(told.value)

    assert "larger than 2000 bytes" in asyncio.run(announced())
    chunked = httpx2.post(server.url, content=iter([b"x" * 500] * 5), headers=JSON)
    assert "content-length" not in chunked.request.headers
    assert chunked.status_code == 413
    assert "larger than 2000 bytes" in chunked.json()["error"]["message"]
    assert server.metric("mcp_requests_refused_total", reason="size") == refused + 2


@pytest.mark.parametrize("tool", ["sleep", "block"])
def test_a_call_that_nobody_waits_for_is_ended_and_counts_as_neither(
    server: Running, tool: str
) -> None:
    """However old the protocol, and whether it waits or keeps a thread busy."""
    counted = ("mcp_tool_call_total", "mcp_tool_call_errors_total")
    before = [server.metric(name, tool_name=tool) for name in counted]
    cancelled = server.metric("mcp_tool_call_cancelled_total", tool_name=tool)
    with pytest.raises(httpx2.ReadTimeout):
        post(server, tool, headers={}, timeout=0.5, seconds=1.5)
    until(
        lambda: server.metric("mcp_tool_call_cancelled_total", tool_name=tool) == cancelled + 1,
        10,
        "the end of the call",
    )
    assert server.metric("mcp_tool_calls_in_flight", tool_name=tool) == 0
    assert [server.metric(name, tool_name=tool) for name in counted] == before
    until(lambda: '"outcome": "cancelled"' in server.stderr, 10, "a line of it in the log")


def test_one_call_too_many_is_told_to_come_back(server: Running, tmp_path: Path) -> None:
    async def main() -> BaseException:
        async with connected(server.url) as client:
            await client.list_tools()
            waiting = {"file": str(tmp_path / "file")}
            calls = [asyncio.create_task(client.call_tool("wait_for", waiting)) for _ in range(3)]
            (refused,), served = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            (tmp_path / "file").touch()
            assert [(await call).is_error for call in served] == [False, False]
            error = refused.exception()
            assert error is not None
            return error

    refused = server.metric("mcp_requests_refused_total", reason="busy")
    error = asyncio.run(main())
    assert isinstance(error, MCPError)
    assert error.code == -32000, "as when the server is not there"
    assert "busy: 2 requests are running" in str(error)
    assert server.metric("mcp_requests_refused_total", reason="busy") == refused + 1


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("host", "tools.example.com:8443", 200),
        ("host", "tools.example.com:9", 421),
        ("host", "127.0.0.1.example.com:80", 421),
        ("host", "127.0.0.1:80.example.com", 421),
        ("origin", "https://console.example.com", 200),
        ("origin", "https://console.example.com.evil.example", 403),
        ("origin", "null", 403),
    ],
)
def test_other_hosts_and_origins_are_refused(
    server: Running, header: str, value: str, status: int
) -> None:
    refused = server.metric("mcp_requests_refused_total", reason=header)
    answer = post(server, "echo", headers={header: value}, text="x")
    assert answer.status_code == status
    assert server.metric("mcp_requests_refused_total", reason=header) == refused + (status != 200)
    if status != 200:
        assert f"TOOLS_ALLOWED_{header.upper()}S" in answer.text


def test_a_token_says_who_calls_and_a_new_one_counts_at_once(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("triage first-secret\n")
    with running(tmp_path / "server", token_file=tokens) as server:
        for header, challenge in (
            ({}, "Bearer"),
            ({"authorization": "Bearer second-secret"}, 'Bearer error="invalid_token"'),
            ({"authorization": "Basic first-secret"}, 'Bearer error="invalid_token"'),
        ):
            answer = post(server, "echo", headers=header, text="x")
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == challenge
        assert server.metric("mcp_requests_refused_total", reason="token") == 3
        assert server.get("/ready").status_code == 200, "a probe has no token"

        tokens.write_text("triage first-secret\nnight second-secret\n")
        for token in ("first", "second"):
            header = {"authorization": f"Bearer {token}-secret"}
            assert post(server, "echo", headers=header, text="x").status_code == 200
        assert [line["caller"] for line in server.calls(2)] == ["triage", "night"]

        tokens.write_text("")
        assert post(server, "echo", headers=header, text="x").status_code == 200
        assert "the older tokens stay" in server.stderr
        assert "secret" not in server.stderr


def test_each_call_is_counted_sized_and_logged_without_what_it_said(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        call(server, "echo", text="confidential")
        call(server, "down")
        call(server, "crash", text="confidential")
        call(server, "confidential")
        lines = server.calls(4)
        assert [(line["tool"], line["outcome"]) for line in lines] == [
            ("echo", "ok"),
            ("down", "outage"),
            ("crash", "error"),
            ("unknown", "error"),
        ]
        for name, of in (("request", "request_bytes"), ("response", "response_bytes")):
            total = server.metric(f"mcp_tool_call_{name}_bytes_sum", tool_name="echo")
            assert total == lines[0][of] > len("confidential")
        for tool, errors in {"echo": 0, "down": 1, "crash": 1, "unknown": 1}.items():
            assert server.metric("mcp_tool_call_total", tool_name=tool) == 1
            assert server.metric("mcp_tool_call_errors_total", tool_name=tool) == errors
        # Where it broke is there, what broke it is not.
        (crashed,) = [line for line in server.log if line["level"] == "error"]
        assert crashed["exceptions"][-1]["type"] == "builtins.RuntimeError"
        assert crashed["exceptions"][-1]["frames"][-1].endswith(" crash")
        assert "confidential" not in server.stderr


class Collector(LoopbackServer):
    """Where spans are sent, over OTLP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def routes(self) -> list[Route]:
        async def take(request: Request) -> Response:
            sent = ExportTraceServiceRequest.FromString(await request.body())
            for resource in sent.resource_spans:
                for scope in resource.scope_spans:
                    self.spans += scope.spans
            return Response()

        return [Route("/v1/traces", take, methods=["POST"])]


def test_spans_join_the_callers_trace_and_are_sent_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.port}")
        with running(tmp_path) as server:
            post(server, "echo", headers=CALLER, text="confidential")
            assert server.end() == 0
    (span,) = collector.spans
    assert span.name == "tools/call echo"
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == "00f067aa0ba902b7"
    assert "confidential" not in str(span)
    assert server.calls(1)[0]["trace_id"] == TRACE


def test_without_a_collector_a_call_still_tells_its_trace(server: Running) -> None:
    post(server, "echo", headers=CALLER, text="x")
    until(lambda: f'"trace_id": "{TRACE}"' in server.stderr, 10, "the trace in the log")


def test_any_replica_answers_any_call(tmp_path: Path) -> None:
    """Of a client that shook hands with another one."""
    initialize = {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    with running(tmp_path / "one") as one, running(tmp_path / "other") as other:
        shaken = httpx2.post(one.url, json=initialize, headers=JSON)
        assert shaken.json()["result"]["protocolVersion"] == "2025-11-25"
        assert "mcp-session-id" not in shaken.headers
        answer = post(other, "echo", headers={"mcp-protocol-version": "2025-11-25"}, text="x")
        assert answer.json()["result"]["content"][0]["text"] == "x"
        # No stream is held open that only one of them could send on.
        assert httpx2.get(one.url, headers={"accept": "text/event-stream"}).status_code == 405


def test_a_drain_is_told_at_once_and_lets_calls_finish(tmp_path: Path) -> None:
    with running(tmp_path, probes=True) as server:

        async def main() -> Any:
            async with in_flight(server, "wait_for", file=str(tmp_path / "file")) as flying:
                server.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(until, lambda: _draining(server), 10, "draining")
                assert server.get("/health").status_code == 200
                (tmp_path / "file").touch()
                return await flying

        assert asyncio.run(main()).content[0].text == "it is there"
        assert server.process.wait(timeout=10) == 0


@pytest.mark.parametrize("tool", ["sleep", "block"])
def test_a_drain_that_takes_too_long_is_ended(tmp_path: Path, tool: str) -> None:
    with running(tmp_path, probes=True, drain_seconds=1) as server:

        async def main() -> None:
            async with in_flight(server, tool, seconds=25) as flying:
                server.process.send_signal(signal.SIGTERM)
                with pytest.raises(MCPError):
                    await flying

        asyncio.run(main())
        # The thread that is kept busy does not come back: the kernel ends it.
        assert server.process.wait(timeout=15) == {"sleep": 0, "block": -signal.SIGALRM}[tool]


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with running(tmp_path, probes=True) as server:

        async def main() -> None:
            async with in_flight(server, "block", seconds=25) as flying:
                server.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(until, lambda: _draining(server), 10, "draining")
                server.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(server.process.wait, 10) == -signal.SIGTERM
                with pytest.raises(MCPError):
                    await flying

        with pytest.raises(BaseExceptionGroup):
            asyncio.run(main())


@asynccontextmanager
async def in_flight(
    server: Running, tool: str, **arguments: Any
) -> AsyncIterator["asyncio.Task[Any]"]:
    """A call that the server has begun."""
    async with connected(server.url) as client:
        # The client looks at the tools after its first call, when nobody would answer any more.
        await client.list_tools()
        flying = asyncio.create_task(client.call_tool(tool, arguments))
        count = "mcp_tool_calls_in_flight"
        await asyncio.to_thread(until, lambda: server.metric(count) == 1, 10, "a call in flight")
        yield flying


def _draining(server: Running) -> bool:
    ready = server.get("/ready")
    return (ready.status_code, ready.text) == (503, "draining\n")
