"""Tool calls as agents counted them → numbers of the exporter.

Belongs here: which series there are, those of calls that nobody has made yet included. Does not
belong here: the counts (`agents/tool_records.py`) or the text of a scrape (`health/exporter/`).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import get_args

from sqlalchemy import Engine

from agent_pipelines.agents.breaker import BreakerState
from agent_pipelines.agents.tally import BOUNDS, CallOutcome
from agent_pipelines.agents.tool_records import read_breakers, read_calls
from agent_pipelines.components.agent import AgentComponent
from agent_pipelines.health.exporter.worker import Sample

#: Nobody waited for the answer: neither a call that succeeded nor one that failed.
_NOT_COUNTED: CallOutcome = "cancelled"


def samples(engine: Engine, agents: Collection[AgentComponent]) -> Iterator[Sample]:
    """All calls there ever were, and the breakers of workers that are at work.

    What an agent may call has its series, at 0, before the first call: of a counter that begins
    with its first failures nobody could tell that it has grown.
    """
    with_tools = [agent for agent in agents if agent.tool_servers]
    yield Sample("agents_with_tools", {}, len(with_tools))
    expected = {
        (server, tool)
        for agent in with_tools
        for server in agent.tool_servers
        for tool in agent.spec.tools
    }
    outcomes: Counter[tuple[str, str, str]] = Counter()
    buckets: Counter[tuple[str, str, float]] = Counter()
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    for counted, amount in read_calls(engine).items():
        key = (counted.server, counted.tool)
        expected.add(key)
        outcomes[*key, counted.outcome] += amount.calls
        if counted.bound is not None:
            buckets[*key, counted.bound] += amount.calls
            seconds[key] += amount.seconds
    for server, tool in sorted(expected):
        labels = {"server": server, "tool_name": tool}
        by_outcome = {outcome: outcomes[server, tool, outcome] for outcome in get_args(CallOutcome)}
        for outcome, number in by_outcome.items():
            yield Sample("tool_call_outcomes", {**labels, "outcome": outcome}, number)
        calls = sum(by_outcome.values()) - by_outcome[_NOT_COUNTED]
        yield Sample("tool_call", labels, calls)
        yield Sample("tool_call_errors", labels, calls - by_outcome["ok"])
        for bound in BOUNDS:
            number = buckets[server, tool, bound]
            yield Sample("tool_call_duration_seconds", {**labels, "le": str(bound)}, number)
        total = seconds[server, tool]
        yield Sample("tool_call_duration_seconds", {**labels, "le": "sum"}, total)
    for agent, server, state in read_breakers(engine, datetime.now(UTC)):
        for each in get_args(BreakerState):
            named = {"agent": agent, "server": server, "state": each.replace(" ", "_")}
            yield Sample("tool_breaker", named, float(each == state))
