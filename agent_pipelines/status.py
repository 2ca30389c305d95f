"""What is true right now, as data: each index and the machinery with their signals, each agent.

Belongs here: gathering what `status` shows. Does not belong here: showing it (`cli.py`) or judging
it (`health/`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import dagster as dg
from sqlalchemy import Engine, func, select

from agent_pipelines.agents.batches import newest_of_all_partitions
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
from agent_pipelines.state.tables import answers
from resources.embedder import EmbedderResource
from resources.orchestrator import open_orchestrator, wanted
from resources.state import StateResource
from resources.weaviate import WeaviateResource


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
