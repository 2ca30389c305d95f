"""Whether a batch may start on an index, and go on, given what its signals say.

Belongs here: the decision, as a pure function. Does not belong here: reading the signals
(`health`) or acting on the decision (`components`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

SignalState = Literal["true", "false", "cannot tell"]


@dataclass(frozen=True)
class Admission:
    """``allowed``, and the names of the signals that were not true: they label every answer."""

    allowed: bool
    false_signals: tuple[str, ...]
    reason: str


def admit(
    policy: Literal["block", "label"],
    readings: Sequence[tuple[str, SignalState]],
    *,
    warnings: Collection[str] = (),
) -> Admission:
    """Decide on readings of (signal, state). What cannot be told is not true.

    Signals that are `warnings` label, and never block.
    """
    doubtful = [(name, state) for name, state in readings if state != "true"]
    names = tuple(name for name, _ in doubtful)
    if not readings:
        reason = "no signal of the index was evaluated"
    elif not doubtful:
        return Admission(True, (), f"all {len(readings)} signals are true")
    else:
        reason = "; ".join(f"{name}: {state}" for name, state in doubtful)
    blocking = not readings or any(name not in warnings for name in names)
    return Admission(policy == "label" or not blocking, names, reason)


def go_on(
    policy: Literal["block", "label"],
    doubts: Sequence[tuple[str, SignalState, str]],
    *,
    warnings: Collection[str] = (),
) -> Admission:
    """Decide again while it runs, on what is not true by now: (signal, state, observed).

    Only what is false, and no warning, ends work that has begun. What cannot be told for a while,
    as during any sync, is no reason to throw it away.
    """
    names = tuple(name for name, _, _ in doubts)
    false = [
        f"{name} turned false: {observed}"
        for name, state, observed in doubts
        if state == "false" and name not in warnings
    ]
    allowed = policy == "label" or not false
    return Admission(allowed, names, "; ".join(false) or "no signal is false")
