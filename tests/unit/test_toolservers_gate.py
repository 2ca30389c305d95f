"""The gate of a tool server, over sockets that a test writes on as it likes."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from agent_pipelines.toolservers.outcome import NOT_SENT
from agent_pipelines.toolservers.shell import body, gate, metrics, options
from resources.tool_session import OutageAsAnswer
from tests.loopback import LoopbackServer
from tests.processes import until


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    sent = await Request(scope, receive).body()
    await PlainTextResponse(sent.decode())(scope, receive, send)


class Gated(LoopbackServer):
    """An echo behind the gate; two requests at once."""

    def __init__(self) -> None:
        self.metrics = metrics.Metrics()

    def routes(self) -> list[Route]:
        limits = options.Options(max_concurrent=2)
        return [Route("/mcp", gate.Gate(_answer, limits, self.metrics, stateless=True))]

    def refused(self, reason: str) -> float:
        return (
            self.metrics.registry.get_sample_value("mcp_requests_refused_total", {"reason": reason})
            or 0.0
        )

    def post(self) -> httpx2.Response:
        return httpx2.post(f"http://127.0.0.1:{self.port}/mcp", content=b"all of it")

    def begin(self) -> socket.socket:
        """A request of which the first byte is sent, and then nothing."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(
            b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Length: 100\r\n\r\n{"
        )
        return connection


@pytest.fixture
def server() -> Iterator[Gated]:
    with Gated() as started:
        yield started


def answer_of_our_client(server: Gated) -> Any:
    """The error that it makes of an answer, by which it decides whether a call may be repeated."""

    async def post() -> Any:
        wire = OutageAsAnswer(httpx2.AsyncHTTPTransport())
        async with httpx2.AsyncClient(transport=wire) as client:
            answer = await client.post(f"http://127.0.0.1:{server.port}/mcp", content=b"x")
        return answer.json()["error"]

    return asyncio.run(post())


def test_who_sends_slowly_is_told_after_a_while_and_cut_off(
    server: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "SECONDS", 0.2)
    with closing(server.begin()) as slow, slow.makefile("rb") as answer:
        said = answer.read().decode()  # to its end: the connection is closed
    assert said.startswith("HTTP/1.1 408 ")
    assert "did not arrive within 0.2 s" in said
    assert server.refused("slow") == 1
    assert server.post().text == "all of it"


def test_so_many_may_send_slowly_at_once_and_take_no_place_of_a_call(server: Gated) -> None:
    with ExitStack() as held:
        held.enter_context(closing(server.begin()))
        assert server.post().text == "all of it"
        held.enter_context(closing(server.begin()))

        def told() -> httpx2.Response | None:
            answer = server.post()
            return answer if answer.status_code == 503 else None

        refused = until(told, 10, "the second of them arrives")
        assert "busy: 2 requests are arriving" in refused.text
        assert answer_of_our_client(server)["data"] == NOT_SENT
    until(lambda: server.post().status_code == 200, 10, "their places are free again")
