"""Places: never more than there are, fair shares of them, and no place lost with who left."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine

import pytest

from agent_pipelines.api.admission import ClosedError, FullError, Places


class Holder:
    """A task that holds its place until it is told to go."""

    def __init__(self, places: Places, tenant: str, order: list[str]) -> None:
        self.waited = False
        self.go = asyncio.Event()
        self._places, self._tenant, self._order = places, tenant, order
        self.task = asyncio.create_task(self._hold())

    async def _hold(self) -> None:
        async with self._places.place(self._tenant, self._waits):
            self._order.append(self._tenant)
            await self.go.wait()

    def _waits(self) -> None:
        self.waited = True


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Scene:
    """Tenants at one set of places, and the order in which they got one."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self.places = Places(at_once, waiting)
        self.order: list[str] = []
        self.holders: list[Holder] = []

    async def come(self, *tenants: str) -> list[Holder]:
        """One after the other."""
        new = []
        for tenant in tenants:
            new.append(Holder(self.places, tenant, self.order))
            await settled()
        self.holders += new
        return new

    async def finish_all(self) -> None:
        """Whoever has a place gives it back, the oldest first, until nobody is left."""
        while left := [h for h in self.holders if not h.task.done() and not h.go.is_set()]:
            left[0].go.set()
            await settled()


def held(scene: Callable[[], Coroutine[None, None, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scene()

    asyncio.run(bounded())


def test_more_than_there_are_places_wait_and_more_than_there_is_room_are_refused() -> None:
    async def scene() -> None:
        at = Scene(at_once=2, waiting=1)
        first, second, third, fourth = await at.come("a", "a", "a", "a")
        assert (at.places.held, at.places.waiting) == (2, 1)
        assert (first.waited, second.waited, third.waited) == (False, False, True)
        with pytest.raises(FullError) as refused:
            await fourth.task
        assert refused.value.retry_after >= 1
        first.go.set()
        await settled()
        assert (at.places.held, at.places.waiting) == (2, 0)
        await at.finish_all()
        assert at.places.held == 0

    held(scene)


def test_whoever_holds_least_is_next_however_many_of_somebody_else_came_before() -> None:
    async def scene() -> None:
        at = Scene(at_once=2, waiting=20)
        await at.come("greedy", *["greedy"] * 8, "modest", "modest", "third")
        await at.finish_all()
        # Once somebody else waits, no place goes to who has more.
        assert Counter(at.order[2:6]) == {"modest": 2, "third": 1, "greedy": 1}
        assert len(at.order) == 12

    held(scene)


def test_whoever_fills_the_queue_makes_room_for_who_has_fewer_in_it() -> None:
    async def scene() -> None:
        at = Scene(at_once=1, waiting=4)
        greedy = await at.come(*["greedy"] * 5)
        modest = await at.come("modest", "modest", "modest")
        # Their newest two; the third would leave them with fewer than `modest` has.
        for turned_away in greedy[3:]:
            with pytest.raises(FullError):
                await turned_away.task
        with pytest.raises(FullError):
            await modest[2].task
        assert at.places.waiting == 4
        await at.finish_all()
        assert Counter(at.order) == {"greedy": 3, "modest": 2}

    held(scene)


@pytest.mark.parametrize("moment", ["waiting", "given"])
def test_who_leaves_takes_no_place_along(moment: str) -> None:
    async def scene() -> None:
        at = Scene(at_once=1, waiting=5)
        first, leaving, last = await at.come("a", "b", "c")
        if moment == "given":
            # The place is given and the task cancelled before it could take it.
            first.go.set()
            while at.places.waiting == 2:
                await asyncio.sleep(0)
        leaving.task.cancel()
        await settled()
        await at.finish_all()
        assert last.task.done()
        assert last.task.exception() is None
        assert (at.places.held, at.places.waiting) == (0, 0)

    held(scene)


def test_closed_it_turns_away_who_waits_and_lets_who_has_a_place_finish() -> None:
    async def scene() -> None:
        at = Scene(at_once=1, waiting=5)
        first, waiting = await at.come("a", "b")
        at.places.close()
        (late,) = await at.come("c")
        results: list[Awaitable[None]] = [waiting.task, late.task]
        for refused in results:
            with pytest.raises(ClosedError):
                await refused
        first.go.set()
        await first.task

    held(scene)
