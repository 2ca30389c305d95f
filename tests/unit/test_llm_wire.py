"""The wire of the model server's client does what httpx2's own does, and fails as that does."""

import asyncio
import gzip
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.llm_wire import Wire
from tests.loopback import LoopbackServer, free_port


def wires() -> list[httpx2.AsyncBaseTransport]:
    ours = Wire(ssl.create_default_context(), connections=9, kept_seconds=3.0)
    return [httpx2.AsyncHTTPTransport(), ours]


class Echo(LoopbackServer):
    """Says what it was sent, compressed, with a header twice; and elsewhere where that is."""

    def routes(self) -> list[Route]:
        return [
            Route("/echo", self.echo, methods=["GET", "POST"]),
            Route("/moved", lambda _: Response(status_code=307, headers={"location": "/echo"})),
        ]

    async def echo(self, request: Request) -> Response:
        sent = [request.method, sorted(request.headers.items()), (await request.body()).decode()]
        body = gzip.compress(json.dumps(sent).encode() * 1_000)
        said = Response(body, status_code=418, headers={"content-encoding": "gzip"})
        said.headers.append("x-twice", "a")
        said.headers.append("x-twice", "b")
        return said


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/echo?a=%2Fb%20c"), ("POST", "/echo"), ("GET", "/moved")]
)
def test_the_same_is_sent_and_the_same_comes_back(method: str, path: str) -> None:
    async def ask(wire: httpx2.AsyncBaseTransport, url: str) -> tuple[object, ...]:
        async with httpx2.AsyncClient(transport=wire, follow_redirects=True) as client:
            content = b'{"a": "\xc3\xa9"}' if method == "POST" else None
            answers = [await client.request(method, url, content=content) for _ in range(2)]
        headers = [item for item in answers[0].headers.multi_items() if item[0] != "date"]
        assert answers[0].content == answers[1].content
        return answers[0].status_code, str(answers[0].url), headers, answers[0].text

    with Echo() as server:
        url = f"http://127.0.0.1:{server.port}{path}"
        theirs, ours = (asyncio.run(ask(wire, url)) for wire in wires())
    assert ours == theirs


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that reads a request, does this with its connection, and closes it."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with closing(connection):
                connection.recv(65536)
                answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass  # until nobody waits any more


def says(text: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(text)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda _: None, id="it hangs up"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"), id="it breaks off"),
        pytest.param(says(b"who is there?\r\n\r\n"), id="it is no HTTP server"),
        pytest.param(silent, id="it says nothing"),
        pytest.param(None, id="nobody listens"),
    ],
)
def test_it_fails_in_the_same_way(answer: Callable[[socket.socket], None] | None) -> None:
    async def ask(wire: httpx2.AsyncBaseTransport, port: int) -> type[Exception]:
        async with httpx2.AsyncClient(transport=wire, timeout=0.5) as client:
            with pytest.raises(httpx2.RequestError) as failure:
                await client.post(f"http://127.0.0.1:{port}/", content=b"{}")
        return failure.type

    def both(port: int) -> list[type[Exception]]:
        return [asyncio.run(ask(wire, port)) for wire in wires()]

    if answer is None:
        theirs, ours = both(free_port())
    else:
        with answering(answer) as port:
            theirs, ours = both(port)
    assert ours is theirs
