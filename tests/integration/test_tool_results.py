"""Servers whose results do not say of which type they are, as SDKs of the newer protocol had it."""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mcp.server import MCPServer

from resources.tool_session import open_session
from tests.processes import until

_TYPE = re.compile(rb'"resultType": ?"complete",? ?|, ?"resultType": ?"complete"')


class Untyped:
    """Takes the type out of whatever a server says, and keeps that."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.said = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def without(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, value) for name, value in message["headers"] if name != b"content-length"
                ]
            if body := message.get("body"):
                message["body"] = _TYPE.sub(b"", body)
                self.said += message["body"]
            await send(message)

        await self._app(scope, receive, without)


@contextmanager
def served(app: Any) -> Iterator[str]:
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, 20, "the server")
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)


@pytest.mark.parametrize("json_response", [True, False], ids=["JSON", "a stream"])
def test_a_result_without_a_type_is_a_complete_one(json_response: bool, tmp_path: Path) -> None:
    server = MCPServer("untyped", log_level="CRITICAL")
    done = tmp_path / "done"

    @server.tool()
    async def order(number: int) -> dict[str, int]:
        with done.open("a") as file:
            file.write(f"{number}\n")
        return {"ordered": number}

    app = server.streamable_http_app(json_response=json_response, stateless_http=True)
    untyped = Untyped(app)

    async def main(url: str) -> Any:
        async with open_session(url, connect_timeout=5, call_timeout=5) as session:
            assert [tool.name for tool in await session.list_tools()] == ["order"]
            return await session.call("order", {"number": 7})

    with served(untyped) as url:
        result = asyncio.run(main(url))
    assert (result.is_error, result.structured) == (False, {"ordered": 7})
    assert done.read_text() == "7\n"
    assert b"structuredContent" in untyped.said
    assert b"ttlMs" in untyped.said, "the newer protocol was spoken"
    assert b"resultType" not in untyped.said
