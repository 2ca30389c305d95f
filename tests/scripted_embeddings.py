"""An embedding server that does what a test tells it to, over the HTTP that vLLM speaks.

Belongs here: /v1/embeddings, /v1/models, and what was asked. Does not belong here: any judgement of
it; tests look at `requests` and `most_at_once`.
"""

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from agent_pipelines.indexing.embedding import Vectors
from tests.loopback import LoopbackServer


@dataclass
class ScriptedEmbeddings(LoopbackServer):
    """Runs in a thread of this process while its `with` block lasts."""

    vectors: Callable[[Sequence[str]], Vectors]
    """From the texts of a request to an array of shape (texts, dimension)."""
    served: list[dict[str, Any]]
    """What /v1/models lists."""
    failures: list[int] = field(default_factory=list)
    """Statuses of the next requests for vectors, taken one by one."""
    spoil: Callable[[list[dict[str, Any]]], Any] = lambda data: data
    """What becomes of the `data` of an answer."""
    seconds: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0

    def routes(self) -> list[Route]:
        return [
            Route("/v1/models", self._models),
            Route("/page/{path:path}", self._page),
            Route("/v1/embeddings", self._embed, methods=["POST"]),
        ]

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": self.served})

    async def _page(self, _request: Request) -> Response:
        return HTMLResponse("<html>a page for people</html>")

    async def _embed(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(self.seconds)
        self._at_once -= 1
        if self.failures:
            # Otherwise a test waits as long as a person would.
            return JSONResponse(
                {"error": {"message": "scripted"}},
                status_code=self.failures.pop(0),
                headers={"retry-after-ms": "1"},
            )
        texts = body["input"]
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, body)}
            for index, vector in enumerate(self.vectors(texts))
        ]
        # As an engine finishes them: in no order of its own.
        return JSONResponse(
            {
                "object": "list",
                "model": body["model"],
                "data": self.spoil(data[::-1]),
                "usage": {"prompt_tokens": len(texts), "total_tokens": len(texts)},
            }
        )


def _encoded(vector: Vectors, body: dict[str, Any]) -> str | list[float]:
    if body.get("encoding_format") == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector]
