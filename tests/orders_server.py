"""A tool server to be broken: two tools, faults on demand, and what it really did, on disk.

Belongs here: one tool that may be repeated and one that may not, in a thread over TLS or as a
process of its own. Does not belong here: the shell of our own servers, or what a client makes of
a fault.

Run as a program it is that process.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import uvicorn
from mcp.server import MCPServer
from mcp.types import HEADER_MISMATCH, ToolAnnotations

#: What becomes of every answer of a tool; what was asked is done all the same.
Fault = Literal["slow", "garbage", "page", "cut", "500", "none"]

#: Answers that ask for the same call once more: the SDK's own client would send it.
Again = Literal["mismatch", "more input"]

#: Seconds that `slow` takes.
SLOW = 4.0


class OrdersServer:
    """A process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.break_with("none")
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/mcp"

    def start(self) -> None:
        root = Path(__file__).parents[1]
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self._port), str(self.folder)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stderr=subprocess.DEVNULL,  # it is full of what faults look like from inside
        )
        deadline = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def break_with(self, fault: Fault | Again) -> None:
        (self.folder / "fault").write_text(fault)

    @property
    def done(self) -> Counter[str]:
        """How often it has done what: `refund:7` is the refund of order 7; and, while a fault was
        on, `asked:refund:7` that it was asked for, done or not.
        """
        file = self.folder / "done"
        return Counter(file.read_text().split()) if file.exists() else Counter()


@contextlib.contextmanager
def orders(folder: Path) -> Iterator[OrdersServer]:
    server = OrdersServer(folder)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def orders_over_tls(folder: Path, **tls: Any) -> Iterator[str]:
    """The same in a thread, with uvicorn's settings for TLS; its URL.

    ``folder`` holds what it has done.
    """
    config = uvicorn.Config(_app(folder), host="127.0.0.1", port=0, log_level="critical", **tls)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)


def _app(folder: Path) -> Any:
    server = MCPServer("orders", log_level="CRITICAL")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def read(order: str) -> str:
        _did(folder, f"read:{order}")
        return f"order {order}"

    @server.tool(annotations=ToolAnnotations(idempotent_hint=False, destructive_hint=True))
    async def refund(order: str) -> str:
        _did(folder, f"refund:{order}")
        return f"refunded {order}"

    return server.streamable_http_app(json_response=True, stateless_http=True)


def _did(folder: Path, what: str) -> None:
    with (folder / "done").open("a") as file:
        file.write(f"{what}\n")


class _Faulty:
    """Lets the server do what was asked, and then does something else with the answer."""

    def __init__(self, app: Any, folder: Path) -> None:
        self._app = app
        self.folder = folder

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        calls = (b"mcp-method", b"tools/call") in scope.get("headers", ())
        fault = (self.folder / "fault").read_text() if calls else "none"
        if fault == "none":
            await self._app(scope, receive, send)
            return
        sent: list[Any] = []
        asked = b""

        async def hear() -> Any:
            nonlocal asked
            message = await receive()
            asked += message.get("body", b"")
            return message

        async def keep(message: Any) -> None:
            sent.append(message)

        await self._app(scope, hear, keep)
        params = json.loads(asked)["params"]
        _did(self.folder, f"asked:{params['name']}:{params['arguments']['order']}")
        if fault == "slow":
            await asyncio.sleep(SLOW)
            for message in sent:
                await send(message)
            return
        kind = "text/html" if fault == "page" else "application/json"
        (whole,) = (message["body"] for message in sent if message.get("body"))
        head = {"jsonrpc": "2.0", "id": json.loads(whole)["id"]}
        body = {
            "garbage": b"\x00<<<",
            "page": b"<html>Please log in.</html>",
            "mismatch": json.dumps(
                {**head, "error": {"code": HEADER_MISMATCH, "message": "list the tools again"}}
            ).encode(),
            "more input": json.dumps(
                {**head, "result": {"resultType": "input_required", "requestState": "asked"}}
            ).encode(),
        }.get(fault, whole)
        await send(
            {
                "type": "http.response.start",
                "status": {"500": 500, "mismatch": 400}.get(fault, 200),
                "headers": [
                    (b"content-type", kind.encode()),
                    (b"content-length", str(len(body)).encode()),
                ],
            }
        )
        if fault == "cut":
            await send({"type": "http.response.body", "body": body[:5], "more_body": True})
            raise RuntimeError("cut off here")
        await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    _folder = Path(sys.argv[2])
    uvicorn.run(
        _Faulty(_app(_folder), _folder),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="critical",
    )
