"""`exporter`: the watcher outside the watched, as a process of its own.

Belongs here: which subjects there are, with what connections each is looked at, and the end. Does
not belong here: their clocks and metrics (`health/exporter/`).
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from agent_pipelines.commands import batch_samples, tool_samples
from agent_pipelines.components.agent import AgentComponent
from agent_pipelines.components.index import IndexComponent
from agent_pipelines.definitions import definitions_of
from agent_pipelines.errors import UserError
from agent_pipelines.health import machinery, repair
from agent_pipelines.health.evaluate import Recorded, look, record, recorded, tick
from agent_pipelines.health.exporter.server import build_app, serve
from agent_pipelines.health.exporter.worker import Fleet, Look, Sample
from agent_pipelines.health.machine import SUBJECT, Machinery, Memory
from agent_pipelines.health.signal import Reading, Signal, State, cannot_tell
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from agent_pipelines.indexing import changes, live
from agent_pipelines.indexing.ledger import Ledger
from agent_pipelines.listening import listen
from agent_pipelines.loading import Loaded, load_assets
from agent_pipelines.local import dagster_home
from agent_pipelines.settings import Settings
from agent_pipelines.state.canary import present
from resources.embedder import EmbedderResource
from resources.orchestrator import open_orchestrator, wanted
from resources.state import StateResource
from resources.weaviate import WeaviateResource

#: Intervals without a look after which this process was asleep, and everything else may have been.
_ASLEEP = 3

#: Seconds that looks under way have to end.
_PATIENCE = 2.0


def export(
    settings: Settings,
    assets: Path,
    console: Console,
    *,
    host: str,
    port: int,
    interval: float,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        UserError: nothing can listen there.
    """

    def say(line: str) -> None:
        console.print(f"[dim]{datetime.now(UTC):%H:%M:%S}[/dim] {escape(line)}", soft_wrap=True)

    fleet = Fleet(interval=interval, say=say)

    def watch(indexes: Sequence[IndexComponent]) -> None:
        fleet.watch([everything, *(IndexSubject(index) for index in indexes)])

    everything = MachinerySubject(settings, assets.absolute(), interval=interval, loaded=watch)
    remedy = "name another with --host and --port"
    with listen(host, port, who="the exporter", remedy=remedy) as listener:
        fleet.watch([everything])
        fleet.supervise()
        say(f"http://{host}:{port}/metrics, every {interval:g} s")
        try:
            serve(build_app(fleet, tick_every=interval), listener)
        finally:
            if not fleet.stop(_PATIENCE):
                # A call that hangs may hold what the interpreter's own end would wait for.
                console.file.flush()
                os._exit(130)


class IndexSubject:
    """One index."""

    def __init__(self, component: IndexComponent) -> None:
        self.component = component
        self.name = component.name
        self.signals: Sequence[Signal] = catalogue()

    @property
    def audit_every(self) -> timedelta:
        """As its YAML says."""
        return self.component.audit_every

    def look(self) -> Look:
        signals = tick()
        readings: Mapping[Signal, Reading]
        try:
            present(StateResource().engine())
            with (
                self.component.open(
                    WeaviateResource(), EmbedderResource(), StateResource()
                ) as index,
                View(index, committed=True) as view,
            ):
                readings = look(view, signals)
        except UserError as error:
            readings = cannot_tell(signals, error.message)
        known, samples = _kept(self.name, readings, self._samples)
        return Look(readings, known, samples)

    def _samples(self, engine: Engine, known: Mapping[str, Recorded]) -> Iterator[Sample]:
        tried = repair.attempts(engine, self.name).values()
        yield self._sample("repair_attempts", max((one.attempts for one in tried), default=0))
        since = changes.oldest(engine, self.name)
        if since is not None:
            yield self._sample("staleness_seconds", _age(since))
        elif "fresh" in known and known["fresh"].state is not State.CANNOT_TELL:
            # None is known to wait; where the source cannot be listed, that says nothing.
            yield self._sample("staleness_seconds", 0.0)
        snapshot = live.latest(engine, self.name)
        if snapshot is None:
            yield self._sample("snapshot_sequence", 0)
            return
        yield self._sample("snapshot_sequence", snapshot.sequence)
        yield self._sample("snapshot_age_seconds", _age(snapshot.committed_at))
        counts = Ledger(engine, self.name, snapshot.collection).counts()
        indexed = counts.documents - counts.failed - counts.pending
        for state, number in (
            ("indexed", indexed),
            ("failed", counts.failed),
            ("pending", counts.pending),
        ):
            yield self._sample("documents", number, state=state)
        yield self._sample("chunks", counts.chunks)

    def _sample(self, metric: str, value: float, **labels: str) -> Sample:
        return Sample(metric, {"index": self.name, **labels}, value)


class MachinerySubject:
    """Everything that indexes depend on; it also keeps an eye on which indexes there are."""

    name = SUBJECT
    audit_every = timedelta(0)

    def __init__(
        self,
        settings: Settings,
        assets: Path,
        *,
        interval: float,
        loaded: Callable[[Sequence[IndexComponent]], object],
    ) -> None:
        """`loaded` is told which indexes there are, first by the first look."""
        self.signals: Sequence[Signal[Any]] = machinery.catalogue()
        self._settings = settings
        self._assets = assets
        self._asleep = timedelta(seconds=_ASLEEP * interval)
        self._told = loaded
        self._seen: object = None
        self._indexes: dict[str, IndexComponent] = {}
        self._loaded: Loaded | None = None
        self._broken: Mapping[str, str] = {}
        self._memory = Memory()

    def look(self) -> Look:
        self._load()
        self._memory.look(datetime.now(UTC), longest=self._asleep)
        watchers = wanted(definitions_of(self._loaded)) if self._loaded else []
        with Machinery(
            state_dir=self._settings.state_dir,
            state=StateResource().engine,
            orchestrator=lambda: open_orchestrator(self._home(), watchers),
            broken=self._broken,
            memory=self._memory,
        ) as view:
            readings = look(view, self.signals)
        agents = self._loaded.agents.values() if self._loaded else ()
        known, samples = _kept(
            self.name, readings, lambda engine, _known: _of_agents(engine, agents)
        )
        return Look(readings, known, samples)

    def _load(self) -> None:
        """Load the assets folder when something in it has changed, and tell what it holds.

        An index whose folder is broken now is watched on as it was: it is still being served.
        """
        state = _state_of(self._assets)
        if state == self._seen:
            return
        try:
            self._loaded = load_assets(self._assets)
        except UserError as error:
            self._broken = {str(self._assets): error.message}
        else:
            self._broken = self._loaded.broken
            kept = {n: i for n, i in self._indexes.items() if n in self._broken}
            self._indexes = {**kept, **self._loaded.indexes}
        self._seen = state
        self._told(list(self._indexes.values()))

    def _home(self) -> Path:
        return self._settings.dagster_home or dagster_home.home(self._settings.state_dir)


def _of_agents(engine: Engine, agents: Collection[AgentComponent]) -> Iterator[Sample]:
    yield from tool_samples.samples(engine, agents)
    yield from batch_samples.samples(engine, agents)


def _kept(
    subject: str,
    readings: Mapping[Signal[Any], Reading],
    samples: Callable[[Engine, Mapping[str, Recorded]], Any],
) -> tuple[Mapping[str, Recorded], Sequence[Sample]]:
    """Record the readings; what the state database then knows of the subject, and its numbers.

    Nothing where it cannot be used: what was read is shown all the same, and that it cannot be
    used is a signal of its own.
    """
    try:
        engine = present(StateResource().engine())
        record(engine, subject, readings)
        known = recorded(engine, subject)
        return known, list(samples(engine, known))
    except (UserError, SQLAlchemyError):
        return {}, ()


def _state_of(folder: Path) -> object:
    """Changes whenever what defines an index or agent does."""
    files = [*folder.glob("*/defs.yaml"), *folder.glob("*/*.py")]
    with suppress(OSError):
        return sorted(
            (str(file), (found := file.stat()).st_mtime_ns, found.st_size) for file in files
        )
    return None


def _age(moment: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - moment).total_seconds())
