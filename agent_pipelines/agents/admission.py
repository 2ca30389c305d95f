"""Whether a batch may start on an index, given what its signals say.

Belongs here: the decision, as a pure function. Does not belong here: reading the signals
(`health`) or acting on the decision (`components`).
"""

from collections.abc import Sequence
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
    policy: Literal["block", "label"], readings: Sequence[tuple[str, SignalState]]
) -> Admission:
    """Decide on readings of (signal, state). What cannot be told is not true."""
    doubtful = [(name, state) for name, state in readings if state != "true"]
    names = tuple(name for name, _ in doubtful)
    if not readings:
        reason = "no signal of the index was evaluated"
    elif not doubtful:
        return Admission(True, (), f"all {len(readings)} signals are true")
    else:
        reason = "; ".join(f"{name}: {state}" for name, state in doubtful)
    return Admission(policy == "label", names, reason)
