"""What the API counts, for Prometheus.

Belongs here: the names, labels and buckets. Does not belong here: when something is counted, and
tool calls, which are counted as a batch's are (`agents/tool_records.py`).
"""

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from agent_pipelines.agents.answer import Answer, Outcome
from agent_pipelines.api.admission import Places

_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

#: Why a request reached no agent; the first five, before anything of it was understood.
REASONS = ("host", "origin", "token", "size", "slow", "busy", "draining", "index", "unavailable")


class Metrics:
    """A registry of its own."""

    def __init__(self, places: Places, agents: list[str]) -> None:
        registry = self.registry = CollectorRegistry()
        self.answers = Counter(
            "agent_api_answers",
            "Tasks that were answered.",
            ("agent", "outcome"),
            registry=registry,
        )
        self.seconds = Histogram(
            "agent_api_task_duration_seconds",
            "Time from taking a task to its answer, waiting included.",
            ("agent",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens = Counter(
            "agent_api_tokens", "Tokens of all turns.", ("agent", "kind"), registry=registry
        )
        self.left = Counter(
            "agent_api_tasks_left",
            "Conversations that ended because nobody waited for them any more.",
            ("agent",),
            registry=registry,
        )
        self.refused = Counter(
            "agent_api_requests_refused",
            "Requests that reached no agent.",
            ("reason",),
            registry=registry,
        )
        Gauge(
            "agent_api_conversations", "Conversations that are held now.", registry=registry
        ).set_function(lambda: places.held)
        Gauge(
            "agent_api_tasks_waiting", "Tasks that wait for their turn.", registry=registry
        ).set_function(lambda: places.waiting)
        # At zero from the start: an increase can be seen.
        for reason in REASONS:
            self.refused.labels(reason)
        for agent in agents:
            self.seconds.labels(agent)
            self.left.labels(agent)
            for outcome in get_args(Outcome):
                self.answers.labels(agent, outcome)
            for kind in ("prompt", "completion"):
                self.tokens.labels(agent, kind)

    def count(self, agent: str, answer: Answer, seconds: float) -> None:
        """A task was answered, so many seconds after it came."""
        self.answers.labels(agent, answer.outcome).inc()
        self.seconds.labels(agent).observe(seconds)
        self.tokens.labels(agent, "prompt").inc(answer.prompt_tokens)
        self.tokens.labels(agent, "completion").inc(answer.completion_tokens)

    def count_refusal(self, reason: str) -> None:
        """A request got no answer; what its sender did wrong, or left, is counted by nobody."""
        if reason in REASONS:
            self.refused.labels(reason).inc()
