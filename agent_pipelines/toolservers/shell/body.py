"""A request's body: read whole before anything is made of it, and never more than may be sent.

Belongs here: reading it and handing it on. Does not belong here: what is answered to one that is
too large or too slow.
"""

import asyncio
from collections.abc import Mapping

from starlette.types import Message, Receive

#: Seconds in which the whole body of a request must arrive: one of the largest size needs a
#: hundredth of that in any network that tools are used over.
SECONDS = 10.0


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes | None:
    """The whole body; None: it has more than ``limit`` bytes, whether that was announced or not.

    Raises:
        TimeoutError: it has not arrived in time.
    """
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > limit:
        return None
    try:
        async with asyncio.timeout(SECONDS):
            return await _read(receive, limit)
    except TimeoutError as error:
        raise TimeoutError(f"the request did not arrive within {SECONDS:g} s") from error


async def _read(receive: Receive, limit: int) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        # A client that has gone leaves what it sent, which is no JSON.
        if message["type"] != "http.request" or not message.get("more_body", False):
            return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """What brings a body that was read already, and then whatever comes after it."""
    unread = True

    async def replayed() -> Message:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed
