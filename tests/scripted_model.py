"""A model server that says what a test tells it to, over the HTTP that vLLM speaks.

Belongs here: /v1/chat/completions, /v1/models, /health and /metrics, and the recorded requests.
Does not belong here: any judgement of what was asked; tests look at `requests`.

Run as a program it says the same to everybody, in a process that can be stopped.
"""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.loopback import LoopbackServer

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
class ScriptedModel(LoopbackServer):
    """Runs in a thread of this process while its `with` block lasts."""

    script: Script | list[Turn]
    requests: list[dict[str, Any]] = field(default_factory=list)
    tls: Mapping[str, Any] = field(default_factory=dict)
    admits: Callable[[Mapping[str, str]], bool] = lambda _headers: True
    """Whether a request with these headers is answered, and not refused with 401."""
    metrics: Callable[[], str] | None = None
    """What /metrics says; None: there is none, as at most gateways."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of every request, whatever it asked for."""

    def routes(self) -> list[Route]:
        return [
            Route("/health", self._health),
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/metrics", self._metrics),
        ]

    async def _health(self, _request: Request) -> Response:
        return Response()

    async def _metrics(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        return Response(self.metrics()) if self.metrics else Response(status_code=404)

    async def _models(self, request: Request) -> Response:
        if not self._admitted(request):
            return Response("who are you?", status_code=401)
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def _admitted(self, request: Request) -> bool:
        self.headers.append(dict(request.headers))
        return self.admits(request.headers)

    async def _complete(self, request: Request) -> Response:
        if not self._admitted(request):
            return Response("who are you?", status_code=401)
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


@dataclass(frozen=True)
class ScriptedProcess:
    """One that runs by itself."""

    pid: int
    base_url: str


@contextmanager
def scripted_process(said: Mapping[str, Any]) -> Iterator[ScriptedProcess]:
    """A model server whose process is its own, as long as the block lasts."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "tests.scripted_model", json.dumps(said)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield ScriptedProcess(process.pid, process.stdout.readline().strip())
        finally:
            process.kill()


if __name__ == "__main__":
    with ScriptedModel(lambda _: says(json.loads(sys.argv[1]), delay=0.02)) as serving:
        print(serving.base_url, flush=True)
        signal.pause()
