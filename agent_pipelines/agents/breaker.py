"""A circuit breaker: while a tool server is down, nobody waits for it.

Belongs here: when calls are admitted. Does not belong here: what counts as a failure, or what
becomes of a call that is not admitted (`guard.py`).

Ours, because no asyncio library of them admits one probe at a time. One event loop's: no locks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Literal

#: Closed: calls pass. Open: none does. Half open: one does, to see whether the server is back.
BreakerState = Literal["closed", "open", "half open"]


@dataclass(frozen=True)
class BreakerSettings:
    """When it opens, and for how long."""

    failures: int = 3
    """Consecutive ones that open it."""
    open_seconds: float = 30.0
    """Until it lets one call through."""


@dataclass(frozen=True)
class Permit:
    """Leave to make one call. Of an older `era` than the breaker's, its outcome is old news."""

    era: int
    probe: bool


class BreakerOpenError(Exception):
    """The call is not admitted. ``retry_after`` in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"retry after {retry_after:.0f} s")
        self.retry_after = retry_after


class Breaker:
    """Of one tool server, in one worker. Every `enter` that returns is followed by one `leave`."""

    def __init__(
        self,
        settings: BreakerSettings = BreakerSettings(),
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._era = 0
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False
        self.openings = 0
        """How often it has opened; a probe that fails opens it again."""

    @property
    def state(self) -> BreakerState:
        if self._opened_at is None:
            return "closed"
        return "half open" if self._remaining() <= 0 else "open"

    def enter(self) -> Permit:
        """Ask to make a call.

        Raises:
            BreakerOpenError: it is open, or its probe is under way.
        """
        if self._opened_at is None:
            return Permit(self._era, probe=False)
        if (remaining := self._remaining()) > 0:
            raise BreakerOpenError(remaining)
        if self._probing:
            # Nobody knows how long the probe takes; if it fails, this long from then.
            raise BreakerOpenError(self._settings.open_seconds)
        self._probing = True
        return Permit(self._era, probe=True)

    def leave(self, permit: Permit, well: bool | None) -> None:
        """Say how the call went.

        Args:
            permit: what `enter` gave for it.
            well: whether the server answered; None where nobody waited for that.
        """
        if permit.era != self._era:
            return
        if permit.probe:
            self._probing = False
        if well:
            self._failures = 0
            if permit.probe:
                self._turn(opened_at=None)
        elif well is False:
            self._failures += 1
            if permit.probe or self._failures >= self._settings.failures:
                self.openings += 1
                self._turn(opened_at=self._clock())

    def _turn(self, *, opened_at: float | None) -> None:
        """Open or close; what is still under way was asked in another time."""
        self._era += 1
        self._failures = 0
        self._opened_at = opened_at

    def _remaining(self) -> float:
        assert self._opened_at is not None
        return self._opened_at + self._settings.open_seconds - self._clock()
