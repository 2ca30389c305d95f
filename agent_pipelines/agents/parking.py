"""Rows that wait for what is down, and when one of them may try whether it is back.

Belongs here: whose turn it is, over a clock that is handed in. Does not belong here: how it shows
that something is down (`conversation.py`), or running rows (`batch.py`).

Of all that wait for one thing, one row at a time tries; once that thing has answered anybody, all
of them may go on.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Row = TypeVar("Row")

#: What a row waits for when it is no tool server.
MODEL = "the model server"

#: Seconds before the first try; each one that fails doubles them, up to the longest.
_FIRST, _LONGEST = 0.5, 30.0


def pause(tries: int, retry_after: float | None, chance: float) -> float:
    """Seconds until the next try, after so many that failed.

    Exponential, with "equal jitter" (Brooker, Exponential Backoff And Jitter): batches that lost
    the same server do not come back to it in step. Never sooner than the server asked for.

    Args:
        tries: that failed so far.
        retry_after: seconds that the server asked for.
        chance: from 0 to 1.
    """
    longest = min(_LONGEST, _FIRST * 2.0 ** min(tries, 16))
    return max(retry_after or 0.0, longest * (1 + chance) / 2)


@dataclass
class _Outage(Generic[Row]):
    due: float
    tries: int = 0
    rows: deque[Row] = field(default_factory=deque)
    trying: Row | None = None


class Parking(Generic[Row]):
    """The parked rows of one batch. One event loop's: no locks."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._outages: dict[str, _Outage[Row]] = {}
        self._ready: deque[Row] = deque()

    def park(self, row: Row, what: str, retry_after: float | None = None) -> None:
        """A row that runs cannot go on without ``what``, which is down."""
        outage = self._outages.get(what)
        now = self._clock()
        if outage is None:
            outage = _Outage(now + pause(0, retry_after, self._chance()))
            self._outages[what] = outage
        elif outage.trying is row:
            outage.tries += 1
            outage.due = now + pause(outage.tries, retry_after, self._chance())
        elif retry_after:
            outage.due = max(outage.due, now + retry_after)
        self.ended(row)
        self._outages[what] = outage
        outage.rows.append(row)

    def answered(self, what: str) -> None:
        """It is not down: all that wait for it may go on."""
        if outage := self._outages.pop(what, None):
            self._ready.extend(outage.rows)

    def ended(self, row: Row) -> None:
        """A row runs no more. If it was trying, the next one may."""
        for what, outage in list(self._outages.items()):
            if outage.trying is row:
                outage.trying = None
            if outage.trying is None and not outage.rows:
                del self._outages[what]  # nobody wants to know

    def take(self) -> Row | None:
        """A row that may run now, if there is one."""
        if self._ready:
            return self._ready.popleft()
        now = self._clock()
        for outage in self._outages.values():
            if outage.trying is None and outage.due <= now:
                outage.trying = outage.rows.popleft()
                return outage.trying
        return None

    @property
    def due(self) -> float | None:
        """Seconds until `take` has a row, as far as that is a matter of time."""
        if self._ready:
            return 0.0
        waits = [outage.due for outage in self._outages.values() if outage.trying is None]
        return max(0.0, min(waits) - self._clock()) if waits else None

    @property
    def trying(self) -> int:
        """Rows that run to see whether something is back."""
        return sum(outage.trying is not None for outage in self._outages.values())

    @property
    def down(self) -> Mapping[str, int]:
        """What is waited for, and how many rows wait for it."""
        return {
            what: len(outage.rows) + (outage.trying is not None)
            for what, outage in self._outages.items()
        }

    def __len__(self) -> int:
        """Rows that are parked; those that try are not."""
        return len(self._ready) + sum(len(outage.rows) for outage in self._outages.values())
