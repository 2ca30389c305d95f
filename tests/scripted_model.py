"""A model server that says what a test tells it to, over the HTTP that vLLM speaks.

Belongs here: /v1/chat/completions, /v1/models and /health, and the recorded requests. Does not
belong here: any judgement of what was asked; tests look at `requests`.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MODEL = "scripted"


@dataclass(frozen=True)
class Turn:
    """One reply. With ``status`` other than 200 it is an HTTP error instead."""

    content: str | None = None
    tool_calls: Sequence[tuple[str, Any]] = ()
    refusal: str | None = None
    finish_reason: str | None = None
    status: int = 200
    delay: float = 0.0


#: From the body of a request to the reply; a plain list is given out in order.
Script = Callable[[dict[str, Any]], Turn]


def says(value: Any, **more: Any) -> Turn:
    """A reply with content: text as it is, anything else as JSON."""
    return Turn(content=value if isinstance(value, str) else json.dumps(value), **more)


def calls(*tool_calls: tuple[str, Any]) -> Turn:
    """A reply that calls tools natively."""
    return Turn(tool_calls=tool_calls)


@dataclass
class ScriptedModel:
    """Runs in a thread of this process while its `with` block lasts."""

    script: Script | list[Turn]
    requests: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
            ]
        )
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(timeout=10)

    async def _health(self, _request: Request) -> Response:
        return Response()

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        number = len(self.requests)
        self.requests.append(body)
        turn = self.script(body) if callable(self.script) else self.script.pop(0)
        await asyncio.sleep(turn.delay)
        if turn.status != 200:
            return JSONResponse({"error": {"message": "scripted"}}, status_code=turn.status)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": turn.content,
            "refusal": turn.refusal,
        }
        if turn.tool_calls:
            message["tool_calls"] = [
                {
                    "id": f"call-{number}-{position}",
                    "type": "function",
                    "function": {
                        "name": name,
                        "arguments": given if isinstance(given, str) else json.dumps(given),
                    },
                }
                for position, (name, given) in enumerate(turn.tool_calls)
            ]
        finish = turn.finish_reason or ("tool_calls" if turn.tool_calls else "stop")
        return JSONResponse(
            {
                "id": f"chatcmpl-{number}",
                "object": "chat.completion",
                "created": 0,
                "model": MODEL,
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": {
                    "prompt_tokens": 10,
                    "completion_tokens": 5,
                    "total_tokens": 15,
                },
            }
        )
