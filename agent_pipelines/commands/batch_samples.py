"""The newest batch of every agent → numbers of the exporter.

Belongs here: which series there are, those of agents without a batch included. Does not belong
here: the records (`agents/batches.py`, `agents/answers.py`) or the text of a scrape
(`health/exporter/`).
"""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import get_args

from sqlalchemy import Engine

from agent_pipelines.agents import answers, waiting
from agent_pipelines.agents.answer import Outcome
from agent_pipelines.agents.batches import newest_of_all_partitions
from agent_pipelines.components.agent import AgentComponent
from agent_pipelines.health.exporter.worker import Sample

#: What a row is that has no answer yet.
_OPEN = "open"

_QUANTILE = 0.95


def samples(engine: Engine, agents: Collection[AgentComponent]) -> Iterator[Sample]:
    """Rows by outcome, tokens, latency, whether it waits; of partitions, all of them together."""
    for agent in agents:
        of = {"agent": agent.name}
        rows: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        slowest = 0.0
        for batch in newest_of_all_partitions(engine, agent.name):
            outcomes = answers.outcomes(engine, batch.batch_id)
            rows += outcomes
            rows[_OPEN] += (batch.tasks or 0) - outcomes.total()
            tokens += answers.tokens(engine, batch.batch_id)
            slowest = max(slowest, answers.latency(engine, batch.batch_id, _QUANTILE))
        for outcome in (*get_args(Outcome), _OPEN):
            yield Sample("batch_rows", {**of, "outcome": outcome}, rows[outcome])
        for kind in ("prompt", "completion"):
            yield Sample("batch_tokens", {**of, "kind": kind}, tokens[kind])
        yield Sample("batch_row_p95_seconds", of, slowest)
        yield Sample("batch_waiting", of, float(bool(waiting.waiting(engine, agent.name))))
