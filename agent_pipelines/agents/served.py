"""What a model server did between two readings of its own counters.

Belongs here: the counters, their differences, and quantiles of histograms. Does not belong here:
reading them (`resources/llm_metrics.py`), or what they should be (`targets.py`).
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from agent_pipelines.agents.load import Load, LoadReader

#: Seconds between two looks.
_LOOK_EVERY = 1.0


@dataclass(frozen=True)
class Histogram:
    """Prometheus' kind: per upper bound how many observations did not exceed it, and their sum."""

    buckets: Mapping[float, float] = field(default_factory=dict)
    """Cumulative; the last bound is infinite."""
    sum: float = 0.0

    @property
    def count(self) -> float:
        """All observations."""
        return max(self.buckets.values(), default=0.0)

    @property
    def mean(self) -> float | None:
        """None where nothing was observed."""
        return self.sum / self.count if self.count else None

    def since(self, earlier: Self) -> Self:
        """What was observed after `earlier`."""
        return replace(
            self,
            buckets={
                bound: n - earlier.buckets.get(bound, 0.0) for bound, n in self.buckets.items()
            },
            sum=self.sum - earlier.sum,
        )

    def plus(self, other: Self) -> Self:
        """The observations of both."""
        bounds = {*self.buckets, *other.buckets}
        return replace(
            self,
            buckets={
                bound: self.buckets.get(bound, 0.0) + other.buckets.get(bound, 0.0)
                for bound in bounds
            },
            sum=self.sum + other.sum,
        )

    def quantile(self, q: float) -> float | None:
        """The value that a share `q` of the observations did not exceed, as far as buckets tell.

        As PromQL's `histogram_quantile` has it: of n observations the one of rank q·n lies in the
        first bucket (l, u] whose cumulative count c(u) ≥ q·n; observations are taken to be spread
        evenly in it, so it is l + (u - l)·(q·n - c(l)) / (c(u) - c(l)). The first bucket begins at
        0; in the one without an upper bound it is that one's l.
        Source: https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile

        Returns:
            None where nothing was observed.
        """
        if not self.count:
            return None
        rank = q * self.count
        lower = below = 0.0
        for upper, n in sorted(self.buckets.items()):
            if n >= rank and n > below:
                if math.isinf(upper):
                    return lower
                return lower + (upper - lower) * (rank - below) / (n - below)
            lower, below = upper, n
        return lower


@dataclass(frozen=True)
class Counters:
    """What a server has counted since it was started, or between two readings."""

    ttft: Histogram = Histogram()
    """Seconds from a request to its first token."""
    inter_token: Histogram = Histogram()
    """Seconds between two tokens of one request."""
    generated: float = 0.0
    """Tokens."""
    prefix_queries: float = 0.0
    """Tokens of prompts that were looked for in the prefix cache."""
    prefix_hits: float = 0.0
    """Those of them that were there."""
    preemptions: float = 0.0

    def since(self, earlier: Self) -> Self:
        """The difference. What is less than it was has begun at 0 again, and all of it counts, as
        PromQL's `rate` has it: the server was started anew.
        """
        if self.ttft.count < earlier.ttft.count or any(
            getattr(self, name) < getattr(earlier, name) for name in _NUMBERS
        ):
            return self
        return replace(
            self,
            ttft=self.ttft.since(earlier.ttft),
            inter_token=self.inter_token.since(earlier.inter_token),
            **{name: getattr(self, name) - getattr(earlier, name) for name in _NUMBERS},
        )

    def plus(self, other: Self) -> Self:
        """What both have counted."""
        return replace(
            self,
            ttft=self.ttft.plus(other.ttft),
            inter_token=self.inter_token.plus(other.inter_token),
            **{name: getattr(self, name) + getattr(other, name) for name in _NUMBERS},
        )


_NUMBERS = ("generated", "prefix_queries", "prefix_hits", "preemptions")


@dataclass(frozen=True)
class Reading:
    """What a server says at one moment."""

    load: Load
    counters: Counters
    kv_cache_tokens: int | None = None
    """That its KV cache holds; None: it does not say."""


class ServerReader(LoadReader, Protocol):
    """Somebody who can be asked for the load, and for the counters with it."""

    async def read(self) -> Reading | None:
        """None: the server does not tell, or does not answer now."""
        ...


@dataclass(frozen=True)
class Served:
    """What a server did in some seconds: for everybody who asked it, not for one batch alone."""

    seconds: float
    counters: Counters
    most_waiting: int
    """The most requests that were seen waiting."""
    kv_cache_peak: float = 0.0
    """The largest share of its KV cache that was seen taken."""
    kv_cache_tokens: int | None = None
    """That its KV cache holds; None: it does not say."""

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second, of all requests together."""
        return self.counters.generated / self.seconds if self.seconds else 0.0

    @property
    def stream_tokens_per_second(self) -> float | None:
        """Tokens per second of one request once it has its first: 1 / mean time between tokens.

        By the mean, which is exact, and not by a quantile: vLLM's first bucket ends at 10 ms. None
        where no request had a second token.
        """
        mean = self.counters.inter_token.mean
        return 1 / mean if mean else None

    @property
    def prefix_hit_rate(self) -> float | None:
        """A share of prompt tokens, 0 to 1; None where no prefix cache was asked."""
        queries = self.counters.prefix_queries
        return self.counters.prefix_hits / queries if queries else None


class Observation:
    """What is seen of a server during a block: by one reader, for all who want to know."""

    served: Served | None = None
    """What it did, once the block is over; None where it does not tell."""
    tokens_per_second: float | None = None
    """What it generates just now; None where it does not tell."""

    def __init__(self) -> None:
        self._load: Load | None = None
        self._last: tuple[float, Counters] | None = None
        self._seen = Served(0.0, Counters(), 0)

    async def load(self) -> Load | None:
        """How busy it was at the last look."""
        return self._load

    def see(self, reading: Reading | None) -> None:
        """Take a look: what was counted since the one before is added, whatever it begins at."""
        self._load = self.tokens_per_second = None
        if reading is None:
            return
        self._load, now = reading.load, time.perf_counter()
        if self._last is not None:
            then, before = self._last
            new = reading.counters.since(before)
            self.tokens_per_second = new.generated / (now - then)
            seconds, counters = self._seen.seconds + now - then, self._seen.counters.plus(new)
            self._seen = replace(self._seen, seconds=seconds, counters=counters)
        self._seen = replace(
            self._seen,
            most_waiting=max(self._seen.most_waiting, reading.load.waiting),
            kv_cache_peak=max(self._seen.kv_cache_peak, reading.load.kv_cache),
            kv_cache_tokens=reading.kv_cache_tokens,
        )
        self._last = now, reading.counters

    def end(self) -> None:
        """It was looked at for the last time."""
        if self._last is not None:
            self.served = self._seen


@asynccontextmanager
async def observed(server: ServerReader | None) -> AsyncIterator[Observation]:
    """Read a server's counters before and after the block, and meanwhile again and again."""
    observation = Observation()
    if server is None:
        yield observation
        return
    observation.see(await server.read())

    async def look() -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            observation.see(await server.read())

    looking = asyncio.create_task(look())
    try:
        yield observation
    finally:
        looking.cancel()
        await asyncio.wait({looking})
    observation.see(await server.read())
    observation.end()
