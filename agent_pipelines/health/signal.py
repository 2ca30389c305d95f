"""What a signal is: one exact yes/no statement about the truth of an index or of the machinery.

Belongs here: its definition and its reading. Does not belong here: any particular signal (one
file each in `signals/` and `machinery/`) or when they are evaluated (`evaluate.py`).
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Generic, Literal

from typing_extensions import TypeVar

from agent_pipelines.health.view import View

#: What a signal looks at: the view of an index, or that of the machinery.
Seen = TypeVar("Seen", default=View)

#: The run that makes a false signal true again: a sync; a sync that compares and searches for
#: everything; or none, and a person must do something.
Repair = Literal["sync", "verify", "person"]


Depth = Literal["tick", "audit"]

#: How old the reading of a tick may be and still be news, to readers and to whoever carries the
#: pager: ten ticks, so that some that were skipped or slow raise no doubt of their own.
TICK_MAY_BE_OLD = timedelta(minutes=5)

#: How late an audit may be. Where there is one every ten minutes, five may be missing; where there
#: is one a day, none.
AUDIT_MAY_BE_LATE = timedelta(minutes=50)


def may_be_old(depth: Depth, audit_every: timedelta) -> timedelta:
    """How old a reading may be and still be news, given the longest time between two audits."""
    return TICK_MAY_BE_OLD if depth == "tick" else audit_every + AUDIT_MAY_BE_LATE


class State(StrEnum):
    """The three answers. `CANNOT_TELL` is never good news, and never a false alarm."""

    TRUE = "true"
    FALSE = "false"
    CANNOT_TELL = "cannot tell"


def worst(states: Iterable[State]) -> State:
    """One false makes the whole false; else one that cannot be told makes it so."""
    found = set(states)
    return next((s for s in (State.FALSE, State.CANNOT_TELL) if s in found), State.TRUE)


@dataclass(frozen=True)
class Reading:
    """One evaluation of a signal. Evidence is a table: rows with the same keys."""

    state: State
    observed: str
    expected: str
    evidence: Sequence[Mapping[str, str]] = field(default_factory=tuple)


@dataclass(frozen=True)
class Signal(Generic[Seen]):
    """One definition; the asset check, the metric, the alert and the `status` line come from it."""

    name: str
    statement: str
    """What is true where all is well, in one sentence."""
    severity: Literal["page", "warn"]
    depth: Depth
    """`tick`: cheap and exact, every 30 s. `audit`: looks at everything."""
    guards: Literal["index", "live", "machinery"]
    """The asset it is a check of: a generation before it is committed, or what readers get. Of the
    machinery no asset check can tell: what would run it may be what is broken.
    """
    repair: Repair
    runbook: str
    """What it means when false and what to do, for whoever is woken by it."""
    evaluate: Callable[[Seen], Reading]


def holds(truth: bool, observed: str, expected: str) -> Reading:
    """A reading without evidence."""
    return Reading(State.TRUE if truth else State.FALSE, observed, expected)


def found_in(package: str, path: Iterable[str]) -> list[Signal[Any]]:
    """The `SIGNAL` of every module of a package, given by its `__name__` and `__path__`."""
    return [
        importlib.import_module(f"{package}.{module.name}").SIGNAL
        for module in pkgutil.iter_modules(path)
    ]


def cannot_tell(signals: Iterable[Signal[Seen]], why: str) -> dict[Signal[Seen], Reading]:
    """Of each of them the same: what it speaks of cannot be seen now."""
    return {signal: Reading(State.CANNOT_TELL, why, signal.statement) for signal in signals}
