"""Running one batch of an agent: may it start, its connections, its progress.

Belongs here: the decision to start a batch and to go on, and what is open while it runs. Does not
belong here: which definitions an agent becomes (`agent.py`), how the report reads in the UI
(`agent_report.py`), or the batch itself (`agents/`).
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from agent_pipelines.agents.admission import Admission, admit, go_on
from agent_pipelines.agents.breaker import Breaker
from agent_pipelines.agents.guard import GuardedSession, ToolServers
from agent_pipelines.agents.parking import MODEL
from agent_pipelines.agents.served import Served, observed
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tally import Tally
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import ToolTransportError
from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.health.evaluate import evaluate, tick
from agent_pipelines.health.readers import not_true
from agent_pipelines.health.signals import catalogue, warnings
from agent_pipelines.health.view import View
from agent_pipelines.indexing.live import Snapshot, latest
from agent_pipelines.progress import progress_or_log
from agent_pipelines.state import leases
from resources.embedder import EmbedderResource
from resources.llm import LlmResource
from resources.state import StateResource
from resources.tools import ToolServerResource
from resources.weaviate import WeaviateResource

if TYPE_CHECKING:
    from agent_pipelines.agents.batch import BatchReport
    from agent_pipelines.agents.batches import Batch


@dataclass(frozen=True)
class Admitted:
    """The index that a batch works on, as it was when it started."""

    snapshot: Snapshot
    admission: Admission


@dataclass(frozen=True)
class Ended:
    """A batch that has come to its end."""

    report: "BatchReport"
    model: str
    admitted: Admitted | None
    tally: Tally
    breakers: Mapping[str, Breaker]
    """By tool server; none where the agent has no tools."""
    served: Served | None
    """What its model server did meanwhile; None where that does not tell."""
    gpus: int | None
    """GPUs of the model server; 0: a CPU; None: nobody knows."""


class _StillDownError(Exception):
    """What a batch needs does not answer when it is to start."""

    def __init__(self, what: str, error: Exception) -> None:
        super().__init__(str(error))
        self.what = what
        self.error = error


@dataclass(frozen=True)
class BatchRun:
    """One run of one agent's batch, over these outside systems."""

    spec: AgentSpec
    yaml: Path
    """Where a person changes what the agent does."""
    index: ConfiguredIndex | None
    weaviate: WeaviateResource
    embedder: EmbedderResource
    state: StateResource
    llm: LlmResource
    tools: Mapping[str, ToolServerResource]
    log: Callable[[str], object]
    resumption: Mapping[str, Any]
    """How the run is started again, where it ends waiting for what is down."""
    waiting: str | None
    """The batch that waited, where this run was started because of it."""
    partition: str = ""
    """Which part of the agent's tasks; empty for all of them."""

    def run(self, tasks: Iterable[Task] | None) -> Ended:
        """Answer every task; what an earlier run has answered of them is not asked again.

        Args:
            tasks: what to answer; None for those that failed in the last finished batch.

        Raises:
            UserError: the tasks cannot be read, the index is not true, another run is at it.
            ToolTransportError: a tool server does not answer at the start of a new batch.
        """
        name = f"agent {self.spec.name} {self.partition}".strip()
        with leases.hold(self.state.engine(), name) as lease:
            admitted = self._admit()
            try:
                return asyncio.run(self._run(tasks, admitted, lease))
            except _StillDownError as down:
                if self.waiting is None:
                    raise down.error from None
                return self._put_off(lease, self.waiting, admitted, down)

    def _put_off(
        self, lease: leases.Lease, batch_id: str, admitted: Admitted | None, down: _StillDownError
    ) -> Ended:
        """What the batch waits for is down still: it waits on."""
        from agent_pipelines.agents.batch import put_off

        report = put_off(lease.engine, batch_id, down.what, str(down.error), fence=lease.check)
        return Ended(report, "none was asked", admitted, Tally(), {}, served=None, gpus=None)

    def _admit(self) -> Admitted | None:
        """Ask the index's signals anew: agents spend no GPU on an index that is not true."""
        if self.index is None:
            return None
        with self.index.open(self.weaviate, self.embedder, self.state) as index:
            with View(index, committed=True) as view:
                readings = evaluate(view, catalogue())
            snapshot = latest(index.engine, index.name)
        admission = admit(
            self.spec.on_stale_index,
            [(signal.name, reading.state.value) for signal, reading in readings.items()],
            warnings=warnings(),
        )
        if snapshot is None or not admission.allowed:
            raise UserError(
                f"agent {self.spec.name} refuses to work on index {self.index.name}: "
                f"{admission.reason}",
                remedy=f"see `agent-pipelines status`, sync the index, or set on_stale_index to "
                f"`label` in {self.yaml}",
            )
        return Admitted(snapshot, admission)

    def _look(self) -> Admission:
        """Ask again while the batch runs: the cheap signals anew, the others as recorded."""
        assert self.index is not None
        # Where nothing can be seen, what is recorded grows old, and says so.
        with (
            suppress(UserError),
            self.index.open(self.weaviate, self.embedder, self.state) as index,
            View(index, committed=True) as view,
        ):
            evaluate(view, tick())
        doubts = not_true(self.state.engine(), self.index.name, audit_every=self.index.audit_every)
        return go_on(
            self.spec.on_stale_index,
            [(doubt.signal, doubt.state, doubt.reason) for doubt in doubts],
            warnings=warnings(),
        )

    def _open(self, engine: Engine, tasks: Iterable[Task] | None, about: dict[str, Any]) -> "Batch":
        """The batch that waited, what failed of the last one, or one of these tasks."""
        from agent_pipelines.agents import lifecycle
        from agent_pipelines.agents.rerun import rerun_failed

        if self.waiting is not None:
            resumed = lifecycle.resume(engine, self.spec, self.waiting, **about)
            if resumed is not None:
                return resumed
        if tasks is None:
            return rerun_failed(engine, self.spec, **about)
        return lifecycle.open_batch(engine, self.spec, tasks, **about)

    async def _run(
        self, tasks: Iterable[Task] | None, admitted: Admitted | None, lease: leases.Lease
    ) -> Ended:
        from agent_pipelines.agents import batches, waiting
        from agent_pipelines.agents.batch import run_batch
        from agent_pipelines.agents.tool_records import recorded
        from agent_pipelines.agents.use import Use, record_use
        from agent_pipelines.agents.watch import Watch

        tally = Tally()
        engine = lease.engine
        async with AsyncExitStack() as stack:
            sessions: dict[str, GuardedSession] = {}
            for server, resource in self.tools.items():
                with _may_be_down(server):
                    session = await stack.enter_async_context(resource.session(tally))
                sessions[server] = session
            breakers = {server: session.breaker for server, session in sessions.items()}
            if sessions:
                await stack.enter_async_context(recorded(engine, self.spec.name, tally, breakers))
            with _may_be_down(MODEL):
                model = await stack.enter_async_context(self.llm.open(self.log))
            about: dict[str, Any] = {
                "model": model.name,
                "partition": self.partition,
                "snapshot": batches.Snapshot(admitted.snapshot.index, admitted.snapshot.sequence)
                if admitted
                else None,
                "false_signals": admitted.admission.false_signals if admitted else (),
            }
            batch = await asyncio.to_thread(self._open, engine, tasks, about)
            waiting.supersede(engine, batch.batch_id)
            waiting.remember(engine, batch.batch_id, self.resumption)
            name = f"{self.spec.name}: answering"
            with progress_or_log(self.log).stage(name, batch.tasks, "tasks") as stage:
                stage.advance(batch.answered)

                def answered(_done: int, _total: int, outcomes: Mapping[str, int]) -> None:
                    stage.advance(news=_news(outcomes, observation.tokens_per_second))

                async with observed(model.server) as observation:
                    report = await run_batch(
                        self.spec,
                        batch=batch,
                        model=model,
                        tools=ToolServers(sessions) if sessions else None,
                        engine=engine,
                        progress=answered,
                        watch=Watch(admitted.admission, self._look) if admitted else None,
                        say=self.log,
                        fence=lease.check,
                        load=observation,
                    )
            if observation.served and (use := Use.of(observation.served, model.gpus)):
                record_use(engine, batch.batch_id, use)
        return Ended(report, model.name, admitted, tally, breakers, observation.served, model.gpus)


def _news(outcomes: Mapping[str, int], tokens_per_second: float | None) -> str:
    """What a person sees beside how many there are: `12 ok, 1 schema, 41 tokens/s`."""
    said = [f"{number} {outcome}" for outcome, number in outcomes.items() if number]
    if tokens_per_second is not None:
        said.append(f"{tokens_per_second:.0f} tokens/s")
    return ", ".join(said)


@contextmanager
def _may_be_down(what: str) -> Iterator[None]:
    try:
        yield
    except (ToolTransportError, UnavailableError) as error:
        raise _StillDownError(what, error) from error
