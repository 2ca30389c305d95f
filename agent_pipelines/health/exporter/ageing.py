"""How old a reading may be before it says nothing any more.

Belongs here: the rule, and its bounds. Does not belong here: taking readings (`worker.py`) or
showing them (`metrics.py`).
"""

from dataclasses import dataclass
from math import inf

from agent_pipelines.health.signal import AUDIT_MAY_BE_LATE, State

#: Ticks that a reading is good for: one is missed by a slow answer, and that is no news.
_TICKS = 3


@dataclass(frozen=True)
class Bounds:
    """For how long, in seconds, a reading of either depth speaks for now."""

    tick: float
    audit: float

    @classmethod
    def of(cls, *, tick_every: float, audit_every: float) -> "Bounds":
        """Of audits one may be missed, where they are not far apart."""
        late = min(audit_every, AUDIT_MAY_BE_LATE.total_seconds())
        return cls(_TICKS * tick_every, audit_every + late)

    def on(self, depth: str) -> float:
        return self.tick if depth == "tick" else self.audit


@dataclass(frozen=True)
class Shown:
    """A signal as it is told now; seconds throughout."""

    state: State
    age: float
    """Since the reading was taken; infinite where there never was one."""
    in_state: float
    """For how long it has been in this state."""


def shown(state: State | None, *, age: float, since: float, bound: float) -> Shown:
    """What may be said now of a signal by its last reading.

    A reading that is too old is not repeated: it tells nothing since the moment it became too old.

    Args:
        state: what was read; None where nothing ever was.
        age: seconds since then, or, where nothing ever was, since it could have been.
        since: seconds for which it has been in that state.
        bound: how old the reading may be, in seconds.
    """
    if state is None:
        return Shown(State.CANNOT_TELL, inf, age)
    if age <= bound or state is State.CANNOT_TELL:
        return Shown(state, age, since)
    return Shown(State.CANNOT_TELL, age, age - bound)
