"""Whether a model server that says nothing is there at all.

Belongs here: when it is asked, once for all who wait. Does not belong here: what it is asked
(`model.py`), or what follows where it is not there (`loop.py`, `dispatch.py`).

A server that hangs (its process is stopped, its machine is gone without a word) keeps connections
open: without this a request would wait for a reply as long as its row has time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

#: Asks the server something that no model has to think about.
Ask = Callable[[], Awaitable[bool]]

#: Seconds without a reply after which the server is asked whether it is there, and again after as
#: many: a reply of some hundred tokens takes that long, and costs no more than this question.
SILENCE = 10.0


class SilentError(Exception):
    """The server is not there; what was asked of it will have no reply."""


class Pulse:
    """Of one model server. One event loop's: no locks."""

    def __init__(self) -> None:
        self._looking: asyncio.Task[bool] | None = None

    @asynccontextmanager
    async def followed(self, ask: Ask) -> AsyncIterator[None]:
        """Cut the block off, which waits for the server, once that is not there.

        Raises:
            SilentError: it was cut off.
        """
        loop = asyncio.get_running_loop()
        following: asyncio.Task[None] | None = None

        def begin() -> None:
            nonlocal following
            following = loop.create_task(self._follow(ask, limit))

        # A timer, and no task: most replies come before it is over.
        timer = loop.call_later(SILENCE, begin)
        try:
            async with asyncio.timeout(None) as limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise SilentError from error
        finally:
            timer.cancel()
            if following is not None:
                following.cancel()

    async def _follow(self, ask: Ask, limit: asyncio.Timeout) -> None:
        while await self._is_there(ask):
            await asyncio.sleep(SILENCE)
        limit.reschedule(asyncio.get_running_loop().time())

    async def _is_there(self, ask: Ask) -> bool:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(ask())
        return await asyncio.shield(self._looking)
