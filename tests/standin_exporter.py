"""An exporter made up: what /metrics would say of two indexes and the machinery at a given moment.

Belongs here: the metrics as everybody agreed on them. Does not belong here: faults; a test makes
them by changing what is said.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent_pipelines.health.signal import Signal, may_be_old
from tests.traces import Trace

#: Seconds between two ticks, two audits and two scrapes; the last is Prometheus' default.
TICK, AUDIT, SCRAPE = 30, 600, 60


@dataclass
class Index:
    """What is said of one."""

    sequence: int = 1
    documents: int = 1_000
    pending: int = 0
    staleness: float = 0.0
    attempts: int = 0
    audit_every: float = AUDIT


@dataclass
class Tool:
    """What is said of the tool `search` of the server of that name, and what that server says."""

    calls: int = 0
    """As agents count."""
    errors: int = 0
    served: int | None = 0
    """As the server counts; None: Prometheus does not reach it."""
    served_errors: int = 0
    breaker: str = "closed"


@dataclass(eq=False)
class StandinExporter(Collector):
    """Its `now` is moved by `run`; everything else is changed by whoever plays a fault."""

    signals: Sequence[Signal[Any]]
    now: float = 0.0
    ticks: int = 0
    indexes: dict[str, Index] = field(default_factory=lambda: {"docs": Index(), "wiki": Index()})
    tool: Tool = field(default_factory=Tool)
    states: dict[tuple[str, str], str] = field(default_factory=dict)
    """By subject and signal; true where nothing is said."""
    ticked_at: dict[str, float] = field(default_factory=dict)
    """Where a subject's last tick was not the last one of all."""
    audited_at: float | None = None
    """Where audits have stopped; minus infinity: there was none."""
    without: Callable[[str, Mapping[str, str]], bool] = lambda _name, _labels: False
    """What is not said."""
    answers: bool = True
    frozen: str | None = None
    """What is said again and again instead."""

    def subjects(self) -> Iterator[tuple[str, Signal[Any]]]:
        for signal in self.signals:
            if signal.guards == "machinery":
                yield "machinery", signal
            else:
                yield from ((name, signal) for name in self.indexes)

    def metrics(self) -> str:
        """The text of /metrics now."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry).decode()

    def collect(self) -> Iterator[Metric]:
        gauges: dict[str, GaugeMetricFamily] = {}

        def say(name: str, value: float, **labels: str) -> None:
            name = f"agent_pipelines_{name}"
            if not self.without(name, labels):
                gauge = gauges.setdefault(name, GaugeMetricFamily(name, name, labels=list(labels)))
                gauge.add_metric(list(labels.values()), value)

        last_tick = self.now // TICK * TICK
        limits: dict[tuple[str, str], float] = {}
        for subject, signal in self.subjects():
            every = self.indexes[subject].audit_every if subject in self.indexes else 0
            if signal.depth == "tick":
                last, good_for = self.ticked_at.get(subject, last_tick), 3.0 * TICK
            else:
                last, good_for = self._last_audit(every), every + min(every, 3_000)
            age = self.now - last
            limit = may_be_old(signal.depth, timedelta(seconds=every)).total_seconds()
            limits[subject, signal.depth] = limit
            key = {"subject": subject, "signal": signal.name}
            actual = self.states.get((subject, signal.name), "true")
            if age > good_for:
                actual = "cannot_tell"  # a reading this old is not repeated
            for state in ("true", "false", "cannot_tell"):
                labels = {**key, "severity": signal.severity, "state": state}
                say("signal", float(state == actual), **labels)
            say("signal_age_seconds", age, **key)
            say("signal_state_seconds", self.now, **key)
        for (subject, depth), limit in limits.items():
            say("reading_age_limit_seconds", limit, subject=subject, depth=depth)
        for subject in dict.fromkeys(subject for subject, _ in self.subjects()):
            say(
                "exporter_tick_age_seconds",
                self.now - self.ticked_at.get(subject, last_tick),
                subject=subject,
            )
            say("exporter_tick_seconds", 0.2, subject=subject)
        for name, index in self.indexes.items():
            if self.now - self.ticked_at.get(name, self.now) > 3 * TICK:
                continue  # nor is a number
            say("staleness_seconds", index.staleness, index=name)
            say("snapshot_sequence", index.sequence, index=name)
            say("repair_attempts", index.attempts, index=name)
            if index.sequence == 0:
                continue  # never committed
            say("snapshot_age_seconds", self.now % 300, index=name)
            say("documents", index.documents - index.pending, index=name, state="indexed")
            say("documents", 0, index=name, state="failed")
            say("documents", index.pending, index=name, state="pending")
            say("chunks", 10 * index.documents, index=name)
        say("agents_with_tools", 1)
        for state in ("closed", "open", "half_open"):
            named = {"agent": "librarian", "server": "search", "state": state}
            say("tool_breaker", float(state == self.tool.breaker), **named)
        yield from gauges.values()
        yield from self._tools()
        ticks = CounterMetricFamily("agent_pipelines_exporter_sequence", "finished ticks")
        ticks.add_metric([], self.ticks)
        yield ticks

    def _last_audit(self, every: float) -> float:
        return self.now // every * every if self.audited_at is None else self.audited_at

    def _tools(self) -> Iterator[Metric]:
        tool, labels = self.tool, {"server": "search", "tool_name": "search"}
        said = {
            "agent_pipelines_tool_call": (tool.calls, labels),
            "agent_pipelines_tool_call_errors": (tool.errors, labels),
        }
        if tool.served is not None:
            of_server = {"tool_name": "search"}
            said["mcp_tool_call"] = (tool.served, of_server)
            said["mcp_tool_call_errors"] = (tool.served_errors, of_server)
        for name, (value, of) in said.items():
            if not self.without(f"{name}_total", of):
                family = CounterMetricFamily(name, name, labels=list(of))
                family.add_metric(list(of.values()), value)
                yield family

    def run(self, trace: Trace, minutes: float, *, each: Callable[[], None] = lambda: None) -> None:
        """Let time pass, with a scrape every so often.

        Args:
            trace: gets the scrapes.
            minutes: how long.
            each: is called before every scrape.
        """
        for _ in range(int(minutes * 60 / trace.every)):
            before, self.now = self.now, self.now + trace.every
            self.ticks += int(self.now // TICK - before // TICK)
            each()
            trace.add((self.frozen or self.metrics()) if self.answers else None)
