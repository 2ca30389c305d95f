"""What is true right now, as data: each index and the machinery with their signals, each agent.

Belongs here: gathering what `status` shows. Does not belong here: showing it (`cli.py`) or judging
it (`health/`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import dagster as dg
from sqlalchemy import Engine, func, select

from agent_pipelines.agents.batches import newest_of_all_partitions
from agent_pipelines.agents.tools import ToolTransportError
from agent_pipelines.components import tool_checks
from agent_pipelines.components.agent import AgentComponent
from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.components.index_sensor import IN_PROGRESS, SIGNAL_TAG
from agent_pipelines.definitions import definitions_of
from agent_pipelines.errors import UserError
from agent_pipelines.health import machinery, repair
from agent_pipelines.health.evaluate import Recorded, evaluate, recorded, tick
from agent_pipelines.health.machine import ALWAYS, Machinery, Memory
from agent_pipelines.health.signal import State, worst
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from agent_pipelines.indexing import changes
from agent_pipelines.indexing.live import Snapshot, latest
from agent_pipelines.loading import Loaded
from agent_pipelines.state.tables import answers, tool_breakers
from resources.embedder import EmbedderResource
from resources.orchestrator import open_orchestrator, wanted
from resources.state import StateResource
from resources.tools import ToolServerResource
from resources.weaviate import WeaviateResource

#: Seconds that a tool server has to say which tools it has.
_PATIENCE = 5.0


@dataclass(frozen=True)
class Repairing:
    """What is being done about a signal that is false."""

    signal: str
    attempts: int
    """Runs asked for since it is false."""
    next_at: datetime
    """When one may be asked for again."""
    gave_up: bool
    """Whether it takes a person; it is tried on all the same, seldom."""
    run_id: str | None
    """The run that is under way now."""


@dataclass(frozen=True)
class IndexStatus:
    """One index. Signals of depth `audit` are the last recorded ones, the others are fresh."""

    name: str
    snapshot: Snapshot | None
    staleness_seconds: float
    signals: Sequence[Recorded]
    repairs: Sequence[Repairing]

    @property
    def state(self) -> State:
        """The worst of the signals."""
        return worst(signal.state for signal in self.signals)


@dataclass(frozen=True)
class AgentStatus:
    """The last batch of an agent; None where there was none."""

    name: str
    batch_id: str | None
    state: str | None
    started_at: datetime | None
    outcomes: Mapping[str, int]


@dataclass(frozen=True)
class ToolUse:
    """How an agent fares with a tool server; None where it has not used it yet."""

    agent: str
    breaker: str | None
    """As its worker said last."""
    heard_at: datetime | None
    """When that was."""
    error_share: float | None
    """Of the calls of its last batch, those that brought no result; from 0 to 1."""


@dataclass(frozen=True)
class ToolServerStatus:
    """A tool server that agents use."""

    name: str
    reachable: bool | None
    """None: nobody expects it to run now."""
    observed: str
    """Where it is and what it has, or why it cannot be asked."""
    agents: Sequence[ToolUse]


@dataclass(frozen=True)
class Daemon:
    """A Dagster daemon that should be at work."""

    home: Path
    """Its instance's DAGSTER_HOME."""
    since: datetime = ALWAYS
    """When it was started, as far as that is known."""


def index_status(component: ConfiguredIndex, instance: dg.DagsterInstance) -> IndexStatus:
    """Evaluate an index's cheap signals now, and read what was recorded of the others."""
    engine = StateResource().engine()
    unseen: UserError | None = None
    try:
        with (
            component.open(WeaviateResource(), EmbedderResource(), StateResource()) as index,
            View(index, committed=True) as view,
        ):
            evaluate(view, tick())
    except UserError as error:
        unseen = error
    now = datetime.now(UTC)
    known = recorded(engine, component.name)
    signals = []
    for signal in catalogue():
        before = known.get(signal.name)
        if before is None or (unseen and signal.depth == "tick"):
            reason = unseen.message if unseen else "never evaluated"
            signals.append(
                Recorded(signal.name, State.CANNOT_TELL, now, now, reason, signal.statement, ())
            )
        else:
            signals.append(before)
    since = changes.oldest(engine, component.name)
    return IndexStatus(
        name=component.name,
        snapshot=latest(engine, component.name),
        staleness_seconds=max(0.0, (now - since).total_seconds()) if since else 0.0,
        signals=signals,
        repairs=repairs(engine, component.name, instance),
    )


def machinery_status(loaded: Loaded, state_dir: Path, daemon: Daemon | None) -> list[Recorded]:
    """Evaluate the machinery's signals now.

    Args:
        loaded: the assets folder, which says what should be switched on.
        state_dir: the folder that must take writes.
        daemon: the one that is expected to run; None where none is.
    """
    watchers = wanted(definitions_of(loaded))
    with Machinery(
        state_dir=state_dir,
        state=StateResource().engine,
        orchestrator=partial(open_orchestrator, daemon.home, watchers) if daemon else None,
        broken=loaded.broken,
        memory=Memory(since=daemon.since) if daemon else None,
    ) as view:
        evaluate(view, machinery.catalogue())
        known = recorded(view.engine, view.subject)
    return [known[signal.name] for signal in machinery.catalogue()]


def repairs(engine: Engine, index: str, instance: dg.DagsterInstance) -> Sequence[Repairing]:
    """What is being done about an index, as the sensor has it on record."""
    filter_ = dg.RunsFilter(tags={"index": index}, statuses=list(IN_PROGRESS))
    runs = instance.get_runs(filter_)
    under_way = {run.tags[SIGNAL_TAG]: run.run_id for run in runs if SIGNAL_TAG in run.tags}
    return [
        Repairing(name, tried.attempts, tried.next_at, tried.gave_up, under_way.get(name))
        for name, tried in sorted(repair.attempts(engine, index).items())
    ]


def agent_status(engine: Engine, name: str) -> AgentStatus:
    """The last batch of an agent; where its tasks are split, that of every partition as one."""
    found = newest_of_all_partitions(engine, name)
    if not found:
        return AgentStatus(name, None, None, None, {})
    last = max(found, key=lambda batch: batch.started_at)
    going_on = [batch.state for batch in found if batch.state != "finished"]
    outcomes = (
        select(answers.c.outcome, func.count())
        .where(answers.c.batch_id.in_(batch.batch_id for batch in found))
        .group_by(answers.c.outcome)
    )
    with engine.connect() as connection:
        counts: dict[str, int] = dict(connection.execute(outcomes).all())
    return AgentStatus(name, last.batch_id, (going_on or [last.state])[0], last.started_at, counts)


def tool_server_status(
    engine: Engine, loaded: Loaded, instance: dg.DagsterInstance
) -> list[ToolServerStatus]:
    """Ask every tool server that agents use, all at once, and read how agents fared with it."""
    used: dict[str, list[AgentComponent]] = {}
    for agent in loaded.agents.values():
        for server in agent.tool_servers:
            used.setdefault(server, []).append(agent)
    resources = {
        name: loaded.tool_servers[name].resource
        if name in loaded.tool_servers
        else ToolServerResource(name=name)
        for name in used
    }

    async def ask() -> list[tuple[bool | None, str]]:
        return await asyncio.gather(*map(_reached, resources.values()))

    with engine.connect() as connection:
        heard = {(row.agent, row.server): row for row in connection.execute(select(tool_breakers))}
    found = []
    for (name, agents), (reachable, observed) in zip(used.items(), asyncio.run(ask()), strict=True):
        uses = []
        for agent in agents:
            row = heard.get((agent.name, name))
            uses.append(
                ToolUse(
                    agent.name,
                    row.state if row else None,
                    row.seen_at if row else None,
                    _error_share(instance, agent.key("answers"), name),
                )
            )
        found.append(ToolServerStatus(name, reachable, observed, uses))
    return found


async def _reached(server: ToolServerResource) -> tuple[bool | None, str]:
    """Whether it gives its tools to whoever connects as agents do, and what it says."""
    try:
        if server.serving_path() is None:
            return None, "does not run now; a batch starts it"
        async with asyncio.timeout(_PATIENCE), server.session() as session:
            tools = await session.list_tools()
        return True, f"{server.endpoint()}, {len(tools)} tools"
    except TimeoutError:
        return False, f"no answer within {_PATIENCE:g} s"
    except UserError as error:
        return False, error.message
    except ToolTransportError as error:
        return False, str(error)


def _error_share(instance: dg.DagsterInstance, answers: dg.AssetKey, server: str) -> float | None:
    # A batch that waits, or whose budget is used up, has observed its answers, and not made them.
    found = [
        *instance.fetch_materializations(answers, limit=1).records,
        *instance.fetch_observations(answers, limit=1).records,
    ]
    last = max(found, key=lambda record: record.timestamp, default=None)
    event = last and (last.asset_materialization or last.event_log_entry.asset_observation)
    said = (event.metadata if event else {}).get(tool_checks.error_share_of(server))
    return said.value if isinstance(said, dg.FloatMetadataValue) else None
