"""What a scrape gets: the last look at every subject, with the age that it has by now.

Belongs here: names, labels and help of the metrics. Does not belong here: taking readings
(`worker.py`), or any call to what they are of: a scrape waits for nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from time import monotonic

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from agent_pipelines.health.exporter.ageing import Bounds, Shown, shown
from agent_pipelines.health.exporter.worker import Seen
from agent_pipelines.health.signal import Signal, State, may_be_old

PREFIX = "agent_pipelines"

#: Numbers beside the signals: their labels, and what they are.
NUMBERS: dict[str, tuple[tuple[str, ...], str]] = {
    "staleness_seconds": (("index",), "Age of the oldest source change that is not live."),
    "snapshot_sequence": (("index",), "Number of the newest committed snapshot."),
    "snapshot_age_seconds": (("index",), "Since that was committed."),
    "documents": (("index", "state"), "Documents in the ledger of what is live, by state."),
    "chunks": (("index",), "Chunks that the ledger says are live."),
    "repair_attempts": (("index",), "Repairs asked for since one last got anywhere."),
    "batch_rows": (
        ("agent", "outcome"),
        "Rows of an agent's newest batch by outcome; open ones have no answer yet.",
    ),
    "batch_tokens": (("agent", "kind"), "Tokens that the answers of that batch took."),
    "batch_row_p95_seconds": (("agent",), "Seconds that 95% of its rows took at most."),
    "batch_waiting": (("agent",), "1 while a batch of the agent waits for what is down."),
    "agents_with_tools": ((), "Agents that may call tools."),
    "tool_breaker": (
        ("agent", "server", "state"),
        "1 for the state that the breaker of a tool server is in, in each worker.",
    ),
}

#: The same, of what only grows.
COUNTS: dict[str, tuple[tuple[str, ...], str]] = {
    "tool_call": (("server", "tool_name"), "Tool calls of agents, those not sent included."),
    "tool_call_errors": (("server", "tool_name"), "Tool calls that brought no result."),
    "tool_call_outcomes": (("server", "tool_name", "outcome"), "Tool calls by what they came to."),
}

#: The same, of durations: one more label, `le`, for a bucket's upper bound, or `sum` for their sum.
DURATIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "tool_call_duration_seconds": (
        ("server", "tool_name"),
        "Time from sending a tool call to its result or its failure.",
    ),
}

_LABELS = {state: str(state).replace(" ", "_") for state in State}


class Readings(Collector):
    """Makes the metrics anew for every scrape, from what the workers have seen."""

    def __init__(
        self, seen: Callable[[], Sequence[Seen]], sequence: Callable[[], int], *, tick_every: float
    ) -> None:
        self._seen = seen
        self._sequence = sequence
        self._tick_every = tick_every

    def collect(self) -> Iterator[Metric]:
        now, wall, seen = monotonic(), datetime.now(UTC), self._seen()
        yield from self._signals(seen, now, wall)
        yield from self._numbers(seen, now)
        yield from self._exporter(seen, now)

    def _signals(self, seen: Sequence[Seen], now: float, wall: datetime) -> Iterator[Metric]:
        labels = ["subject", "signal"]
        states = _gauge(
            "signal", "1 for the state that the signal is in.", [*labels, "severity", "state"]
        )
        ages = _gauge("signal_age_seconds", "Since the reading was taken.", labels)
        since = _gauge("signal_state_seconds", "How long it has been in its state.", labels)
        limits = _gauge(
            "reading_age_limit_seconds", "How old a reading may be.", ["subject", "depth"]
        )
        for one in seen:
            bounds = self._bounds(one)
            for depth in sorted({signal.depth for signal in one.signals}):
                limit = may_be_old(depth, one.audit_every)
                limits.add_metric([one.subject, depth], limit.total_seconds())
            for signal in one.signals:
                told = tell(one, signal, bounds, now=now, wall=wall)
                for state, label in _LABELS.items():
                    states.add_metric(
                        [one.subject, signal.name, signal.severity, label],
                        float(state is told.state),
                    )
                ages.add_metric([one.subject, signal.name], told.age)
                since.add_metric([one.subject, signal.name], told.in_state)
        yield from (states, ages, since, limits)

    def _bounds(self, seen: Seen) -> Bounds:
        audit_every = seen.audit_every.total_seconds()
        return Bounds.of(tick_every=self._tick_every, audit_every=audit_every)

    def _numbers(self, seen: Sequence[Seen], now: float) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
            name: _gauge(name, meaning, labels) for name, (labels, meaning) in NUMBERS.items()
        }
        families |= {
            name: CounterMetricFamily(f"{PREFIX}_{name}", meaning, labels=list(labels))
            for name, (labels, meaning) in COUNTS.items()
        }
        durations: dict[str, dict[tuple[str, ...], dict[str, float]]] = {n: {} for n in DURATIONS}
        for one in seen:
            if one.ended is None or now - one.ended > self._bounds(one).tick:
                continue  # an old number looks like a new one: rather none
            for sample in one.samples:
                if sample.metric in DURATIONS:
                    key = tuple(sample.labels[label] for label in DURATIONS[sample.metric][0])
                    durations[sample.metric].setdefault(key, {})[sample.labels["le"]] = sample.value
                    continue
                labels = (NUMBERS.get(sample.metric) or COUNTS[sample.metric])[0]
                families[sample.metric].add_metric(
                    [sample.labels[label] for label in labels], sample.value
                )
        yield from families.values()
        for name, (labels, meaning) in DURATIONS.items():
            yield _histogram(name, meaning, labels, durations[name])

    def _exporter(self, seen: Sequence[Seen], now: float) -> Iterator[Metric]:
        sequence = CounterMetricFamily(
            f"{PREFIX}_exporter_sequence", "Looks that this exporter has finished."
        )
        sequence.add_metric([], self._sequence())
        age = _gauge("exporter_tick_age_seconds", "Since the last look ended.", ["subject"])
        took = _gauge("exporter_tick_seconds", "How long that look took.", ["subject"])
        for one in seen:
            age.add_metric([one.subject], now - (one.born if one.ended is None else one.ended))
            if one.ended is not None:
                took.add_metric([one.subject], one.took)
        yield from (sequence, age, took)


def tell(seen: Seen, signal: Signal, bounds: Bounds, *, now: float, wall: datetime) -> Shown:
    """A signal as it may be told now.

    Args:
        seen: the last look at its subject.
        signal: which one.
        bounds: how old readings may be.
        now: by the clock that no one sets; it ages what this process has seen itself.
        wall: the time of day; it ages what others have recorded.
    """
    bound = bounds.tick if signal.depth == "tick" else bounds.audit
    reading = seen.readings.get(signal.name)
    if reading is None or seen.ended is None:
        return shown(None, age=now - seen.born, since=0, bound=bound)
    if signal.depth == "tick":
        age = now - seen.ended
        since = age + (reading.evaluated_at - reading.since).total_seconds()
    else:
        age = max(0.0, (wall - reading.evaluated_at).total_seconds())
        since = (wall - reading.since).total_seconds()
    return shown(reading.state, age=age, since=max(0.0, since), bound=bound)


def _histogram(
    name: str,
    meaning: str,
    labels: Sequence[str],
    found: Mapping[tuple[str, ...], Mapping[str, float]],
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"{PREFIX}_{name}", meaning, labels=list(labels))
    for key, buckets in found.items():
        bounds = sorted(float(le) for le in buckets if le != "sum")
        counts = accumulate(buckets[str(bound)] for bound in bounds)
        pairs = list(zip(map(floatToGoString, bounds), counts, strict=True))
        family.add_metric(list(key), pairs, buckets["sum"])
    return family


def _gauge(name: str, meaning: str, labels: Sequence[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", meaning, labels=list(labels))
