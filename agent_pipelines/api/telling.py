"""A conversation as an HTTP response: its answer at the end, or its events as they happen.

Belongs here: what is written when, and noticing that the client has hung up. Does not belong here:
the conversation (`conversation.py`).
"""

import asyncio

from fastapi.sse import KEEPALIVE_COMMENT
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from agent_pipelines.api.conversation import Conversation
from agent_pipelines.api.conversations import Conversations
from agent_pipelines.api.events import Event
from agent_pipelines.api.problems import Problem

EVENT_STREAM = "text/event-stream"

#: Seconds without an event after which a comment is sent: proxies close what is silent.
_KEEP_ALIVE_SECONDS = 15.0


class Telling(Response):
    """Ends the conversation, unless others listen too, when its client hangs up."""

    def __init__(
        self, conversations: Conversations, conversation: Conversation, *, stream: bool
    ) -> None:
        super().__init__()
        self._conversations = conversations
        self._conversation = conversation
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write it, for as long as somebody reads."""
        tell = self._tell_events if self._stream else self._tell_answer
        telling = asyncio.ensure_future(tell(scope, receive, send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({telling, gone}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
        finally:
            self._conversations.leave(self._conversation)
            telling.cancel()
            gone.cancel()

    async def _tell_answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        number, last = 0, None
        try:
            while event := await self._conversation.event(number):
                number, last = number + 1, event
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        assert last is not None
        await JSONResponse(last.data)(scope, receive, send)

    async def _tell_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Before anything has happened a problem still has a status of its own.
            await self._conversation.event(0)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            return
        headers = [
            (b"content-type", EVENT_STREAM.encode()),
            (b"cache-control", b"no-store"),
            # nginx would keep events until it has many.
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        number = 0
        while True:
            try:
                async with asyncio.timeout(_KEEP_ALIVE_SECONDS):
                    event = await self._conversation.event(number)
            except TimeoutError:
                await _write(send, KEEPALIVE_COMMENT)
                continue
            except Problem as problem:
                event = Event("problem", {"status": problem.status, **problem.body})
                await _write(send, event.encoded())
                break
            if event is None:
                break
            await _write(send, event.encoded())
            number += 1
        await _write(send, b"", more=False)


async def _write(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _gone(receive: Receive) -> None:
    """Returns when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
