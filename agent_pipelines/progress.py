"""Telling a person how far long work is.

Belongs here: the protocol the engine rooms report through, and the version that writes to a log.
Does not belong here: bars in a terminal (`terminal.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Protocol

#: Seconds between two log lines of one stage.
_LOG_EVERY = 10.0


class Stage(Protocol):
    """One stretch of work under way."""

    def advance(self, amount: int = 1, news: str = "") -> None:
        """So much more is done; ``news`` stand beside it until there are others."""
        ...


class Progress(Protocol):
    """Where stages are shown."""

    def stage(
        self, name: str, total: int | None = None, unit: str = ""
    ) -> AbstractContextManager[Stage]:
        """Show a stage until the block is left; `total` is in `unit`s."""
        ...


class LogProgress:
    """Progress as log lines: at the start, at most every ten seconds, and at the end."""

    def __init__(self, log: Callable[[str], object]) -> None:
        self._log = log

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Stage]:
        stage = _LoggedStage(self._log, name, total, unit)
        started = monotonic()
        yield stage
        did = f"{stage.done or 'done'} {unit} in {monotonic() - started:.1f} s"
        self._log(f"{name}: {did}{stage.news}")


class _LoggedStage:
    def __init__(
        self, log: Callable[[str], object], name: str, total: int | None, unit: str
    ) -> None:
        self._log, self._name, self._total, self._unit = log, name, total, unit
        self._logged_at = monotonic()
        self.done = 0
        self.news = ""

    def advance(self, amount: int = 1, news: str = "") -> None:
        self.done += amount
        self.news = f": {news}" if news else self.news
        if monotonic() - self._logged_at > _LOG_EVERY:
            self._logged_at = monotonic()
            done = f"{self.done} of {self._total or '?'} {self._unit}"
            self._log(f"{self._name}: {done}{self.news}")


_shown: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def shown_in(progress: Progress) -> Iterator[None]:
    """Show the progress of everything inside the block there, instead of in its log."""
    token = _shown.set(progress)
    try:
        yield
    finally:
        _shown.reset(token)


def progress_or_log(log: Callable[[str], object]) -> Progress:
    """The terminal that started this run, or its log where nobody watches."""
    return _shown.get() or LogProgress(log)
