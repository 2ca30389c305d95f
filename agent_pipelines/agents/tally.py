"""Tool calls, counted where they are made: a server that is dead cannot count them.

Belongs here: counts and durations of one worker. Does not belong here: what is counted as what
(`guard.py`) or where the counts are kept (`tool_records.py`).
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

#: ok and error: the tool's own word. outage: it says that what it depends on is down. transport:
#: no answer, or none that can be read. unavailable: not sent, the breaker is open. cancelled:
#: nobody waited for the answer, which says nothing of the server.
CallOutcome = Literal["ok", "error", "outage", "transport", "unavailable", "cancelled"]

#: Upper bounds of the durations that are kept, in seconds; one of them is the target.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, math.inf)

#: Durations of one tool that quantiles are taken of, the newest: a worker may serve for months.
_KEPT = 10_000


@dataclass(frozen=True)
class Counted:
    """Calls that are alike. ``bound`` is that of `BOUNDS`; None for calls without a duration."""

    server: str
    tool: str
    outcome: CallOutcome
    bound: float | None


@dataclass
class Sum:
    """How many they are, and how long they took together."""

    calls: int = 0
    seconds: float = 0.0


@dataclass
class Tally:
    """The calls of one worker, every sending of them."""

    outcomes: Counter[tuple[str, str, CallOutcome]] = field(default_factory=Counter)
    """By server, tool and outcome."""
    _seconds: dict[tuple[str, str], deque[float]] = field(default_factory=dict)
    _new: dict[Counted, Sum] = field(default_factory=dict)

    def count(
        self, server: str, tool: str, outcome: CallOutcome, seconds: float | None = None
    ) -> None:
        """One call; ``seconds`` where it was sent and waited for."""
        self.outcomes[server, tool, outcome] += 1
        bound = None
        if seconds is not None:
            self._seconds.setdefault((server, tool), deque(maxlen=_KEPT)).append(seconds)
            bound = next(each for each in BOUNDS if seconds <= each)
        self._add(Counted(server, tool, outcome, bound), Sum(1, seconds or 0.0))

    def take_new(self) -> dict[Counted, Sum]:
        """What came since this was last asked for; whoever takes it keeps it."""
        new, self._new = self._new, {}
        return new

    def put_back(self, taken: dict[Counted, Sum]) -> None:
        """Undo `take_new`, of what could not be kept after all."""
        for counted, amount in taken.items():
            self._add(counted, amount)

    def _add(self, counted: Counted, amount: Sum) -> None:
        known = self._new.setdefault(counted, Sum())
        known.calls += amount.calls
        known.seconds += amount.seconds

    @property
    def calls(self) -> int:
        """Calls that somebody waited for."""
        return sum(n for (_, _, outcome), n in self.outcomes.items() if outcome != "cancelled")

    @property
    def errors(self) -> int:
        """Those of them that brought no result."""
        good = ("ok", "cancelled")
        return sum(n for (_, _, outcome), n in self.outcomes.items() if outcome not in good)

    @property
    def success_rate(self) -> float:
        """A share, from 0 to 1; 1 where there was no call."""
        return 1 - self.errors / self.calls if self.calls else 1.0

    def error_share(self, server: str) -> float:
        """Of the calls to one server, those that brought no result; from 0 to 1."""
        found: Counter[CallOutcome] = Counter()
        for (of_server, _, outcome), number in self.outcomes.items():
            if of_server == server:
                found[outcome] += number
        calls = found.total() - found["cancelled"]
        return 1 - found["ok"] / calls if calls else 0.0

    def seconds(self, quantile: float) -> float:
        """The duration that this share of the calls that were sent did not exceed."""
        return _quantile(list(chain.from_iterable(self._seconds.values())), quantile)

    def tools(self) -> Iterable[tuple[str, str, Counter[CallOutcome], float, float]]:
        """Per server and tool: how many of which outcome, p50 and p99 in seconds."""
        for server, tool in sorted({(server, tool) for server, tool, _ in self.outcomes}):
            found: Counter[CallOutcome] = Counter()
            for (of_server, of_tool, outcome), number in self.outcomes.items():
                if (of_server, of_tool) == (server, tool):
                    found[outcome] = number
            seconds = list(self._seconds.get((server, tool), ()))
            yield server, tool, found, _quantile(seconds, 0.5), _quantile(seconds, 0.99)


def _quantile(seconds: Sequence[float], quantile: float) -> float:
    if not seconds:
        return 0.0
    return sorted(seconds)[max(0, math.ceil(quantile * len(seconds)) - 1)]
