"""Places for conversations: how many are held at once, how many tasks wait, and who is next.

Belongs here: bounds, and fairness between tenants. Does not belong here: who a tenant is
(`identity.py`) or what is done in a place (`conversations.py`).

Fair is max-min: a place that becomes free goes to the waiting tenant who holds the fewest, of
equals to the one who was given a place longest ago. Room to wait is shared in the same way: where
there is none left, the newest task of whoever waits with the most makes room for one of whoever has
fewer (McKenney, Stochastic Fairness Queueing, 1990: from the longest queue).
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

#: Of how long a place was held, what the newest counts in the mean.
_NEWEST = 0.1


class FullError(Exception):
    """No place, and no room to wait for one. ``retry_after`` in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"retry after {retry_after:g} s")
        self.retry_after = retry_after


class ClosedError(Exception):
    """No place will be given any more."""


class Places:
    """Of one process and one event loop: no locks."""

    def __init__(self, at_once: int, waiting: int) -> None:
        """Args:
        at_once: places.
        waiting: how many may wait for one.
        """
        self._at_once = at_once
        self._room = waiting
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}
        self._held: Counter[str] = Counter()
        self._turn: dict[str, int] = {}
        """When each tenant was last given a place, counted in places given."""
        self._given = 0
        self._mean_seconds = 1.0
        self._closed = False

    @property
    def held(self) -> int:
        """Places that are taken."""
        return self._held.total()

    @property
    def waiting(self) -> int:
        """Tasks that wait for one."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def place(self, tenant: str, waits: Callable[[], None]) -> AsyncIterator[None]:
        """A place for as long as the block lasts; ``waits`` is called if there is none at once.

        Raises:
            FullError: there is no room to wait; or somebody who has fewer waiting needed it.
            ClosedError: it was closed.
        """
        await self._take(tenant, waits)
        began = time.monotonic()
        try:
            yield
        finally:
            self._mean_seconds += _NEWEST * (time.monotonic() - began - self._mean_seconds)
            self._give_back(tenant)

    def close(self) -> None:
        """Give no more places; who waits is told so."""
        self._closed = True
        queues, self._queues = self._queues, {}
        for turn in (turn for queue in queues.values() for turn in queue):
            if not turn.done():
                turn.set_exception(ClosedError())

    async def _take(self, tenant: str, waits: Callable[[], None]) -> None:
        if self._closed:
            raise ClosedError
        if self.held < self._at_once and not self._queues:
            self._give(tenant)
            return
        if self.waiting >= self._room:
            self._make_room(tenant)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(tenant, deque()).append(turn)
        waits()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # Given in the very moment that nobody wanted it any more.
                self._give_back(tenant)
            else:
                self._leave(tenant, turn)
            raise

    def _make_room(self, tenant: str) -> None:
        most = max(self._queues, key=lambda name: len(self._queues[name]))
        mine = len(self._queues.get(tenant, ()))
        # Not for one less: the two would turn each other away by turns.
        if len(self._queues[most]) <= mine + 1:
            raise FullError(self._retry_after())
        turn = self._queues[most][-1]
        self._leave(most, turn)
        # One whose task was cancelled just now is about to leave by itself.
        if not turn.done():
            turn.set_exception(FullError(self._retry_after()))

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(tenant)
        if queue is None or turn not in queue:
            return
        queue.remove(turn)
        if not queue:
            del self._queues[tenant]

    def _give(self, tenant: str) -> None:
        self._given += 1
        self._turn[tenant] = self._given
        self._held[tenant] += 1

    def _give_back(self, tenant: str) -> None:
        self._held[tenant] -= 1
        while self._queues and self.held < self._at_once:
            following = min(
                self._queues, key=lambda name: (self._held[name], self._turn.get(name, 0))
            )
            turn = self._queues[following][0]
            self._leave(following, turn)
            if not turn.done():
                self._give(following)
                turn.set_result(None)

    def _retry_after(self) -> float:
        """Seconds until those who wait now will have had their turn, as far as can be said."""
        return math.ceil(self._mean_seconds * (self.waiting + 1) / self._at_once)
