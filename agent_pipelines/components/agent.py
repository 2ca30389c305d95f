"""An agent as Dagster assets: `<name>/tasks` → `<name>/answers`.

Belongs here: which definitions an agent becomes, the decision to start a batch, and how its report
reads in the UI. Does not belong here: the YAML's fields (`agent_config.py`) or the batch itself
(`agents/`).
"""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

from agent_pipelines.agents.admission import Admission, admit, go_on
from agent_pipelines.agents.guard import ToolServers
from agent_pipelines.agents.spec import SEARCH_SERVER, AgentFields, AgentSpec
from agent_pipelines.agents.tally import Tally
from agent_pipelines.agents.tools import ToolTransportError
from agent_pipelines.components import tool_checks
from agent_pipelines.components.agent_config import AgentConfig
from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.components.tool_server import resource_key
from agent_pipelines.errors import UserError
from agent_pipelines.health.evaluate import evaluate, tick
from agent_pipelines.health.readers import not_true
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from agent_pipelines.indexing.live import Snapshot, latest
from agent_pipelines.progress import progress_or_log
from agent_pipelines.state import leases
from resources.embedder import EmbedderResource
from resources.llm import LlmResource
from resources.state import StateResource
from resources.tools import ToolServerResource
from resources.weaviate import WeaviateResource

#: The share of tasks that must end well for a batch to pass its check.
COMPLETION = 0.95

#: Answers shown as a sample in the UI.
_SAMPLE = 5


class BatchConfig(dg.Config):
    """What a person may say to one batch, in the launchpad or on the command line."""

    tasks: str | None = Field(
        default=None, description="Another tasks file than the one in the agent's YAML."
    )


@dataclass(frozen=True)
class Admitted:
    """The index that a batch works on, as it was when it started."""

    snapshot: Snapshot
    admission: Admission


class AgentComponent(dg.Component):
    """An agent: a model with instructions and tools that works through a file of tasks."""

    def __init__(self, name: str, config: AgentConfig, folder: Path) -> None:
        self.name = name
        self.config = config
        self.folder = folder
        self.spec = AgentSpec(name=name, **config.model_dump(include=set(AgentFields.model_fields)))
        self._index: ConfiguredIndex | None = None

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return AgentConfig

    @classmethod
    def load(
        cls, attributes: BaseModel | None, context: dg.ComponentLoadContext
    ) -> "AgentComponent":
        assert isinstance(attributes, AgentConfig)
        return cls(context.path.name, attributes, context.path)

    def bind(
        self, indexes: Mapping[str, ConfiguredIndex], tool_servers: Collection[str] = ()
    ) -> None:
        """Find the index that the agent reads; called once all of them are loaded.

        Raises:
            UserError: there is none of that name, or no tool server of a name that it has.
        """
        known = {SEARCH_SERVER, *tool_servers}
        for server in self.tool_servers:
            if server not in known:
                raise UserError(
                    f"agent {self.name}: there is no tool server {server!r}",
                    remedy=f"set `tool_servers` to some of: {', '.join(sorted(known))}",
                )
        if self.spec.index is None:
            return
        if self.spec.index not in indexes:
            raise UserError(
                f"agent {self.name}: there is no index {self.spec.index!r}",
                remedy=f"set `index` to one of: {', '.join(indexes) or 'none is defined'}",
            )
        self._index = indexes[self.spec.index]

    def key(self, asset: str) -> dg.AssetKey:
        """The key of one of the agent's assets."""
        return dg.AssetKey([self.name, asset])

    @property
    def tool_servers(self) -> Sequence[str]:
        """Those that the agent may use; none where it has no tools."""
        return self.spec.tool_servers if self.spec.tools else ()

    @property
    def job_name(self) -> str:
        return f"{self.name}_batch"

    def tasks_file(self, other: str | None = None) -> Path:
        """The tasks file: the one in the YAML, or another one."""
        return Path(other).absolute() if other else (self.folder / self.config.tasks).resolve()

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        del context
        job = dg.define_asset_job(
            self.job_name,
            selection=dg.AssetSelection.assets(self.key("tasks"), self.key("answers")),
            description=f"Let agent {self.name} work through its tasks.",
            tags={"agent": self.name},
        )
        schedule = dg.ScheduleDefinition(
            name=f"{self.job_name}_schedule",
            job=job,
            cron_schedule=self.config.schedule or "0 6 * * *",
            execution_timezone="UTC",
            default_status=dg.DefaultScheduleStatus.RUNNING
            if self.config.schedule
            else dg.DefaultScheduleStatus.STOPPED,
        )
        return dg.Definitions(
            assets=[self._tasks(), self._answers()], jobs=[job], schedules=[schedule]
        )

    def _common(self, asset: str, description: str) -> dict[str, Any]:
        return {
            "key": self.key(asset),
            "group_name": self.name,
            "description": f"{description}\n\n{self.config.description}".strip(),
        }

    def _tasks(self) -> Any:
        @dg.observable_source_asset(
            **self._common("tasks", "The tasks file; its version is a digest.")
        )
        def tasks() -> dg.ObserveResult:
            from agent_pipelines.agents.tasks import read_tasks

            file = self.tasks_file()
            return dg.ObserveResult(
                data_version=dg.DataVersion(hashlib.sha256(file.read_bytes()).hexdigest()),
                metadata={"tasks": len(read_tasks(file)), "file": dg.PathMetadataValue(file)},
            )

        return tasks

    def _answers(self) -> Any:
        upstream = [self.key("tasks")] + ([self._index.key("live")] if self._index else [])

        @dg.asset(
            **self._common("answers", "One answer per task, with its citations and outcome."),
            deps=upstream,
            kinds={"vllm"},
            # Named here, not as parameters: which tool servers there are is in the YAML.
            required_resource_keys={
                *("weaviate", "embedder", "state", "llm"),
                *map(resource_key, self.tool_servers),
            },
            check_specs=[
                dg.AssetCheckSpec(
                    "completion",
                    asset=self.key("answers"),
                    description=f"every task has an answer, {COMPLETION:.0%} of them outcome ok",
                ),
                dg.AssetCheckSpec(
                    "citations_retrieved",
                    asset=self.key("answers"),
                    description="every cited chunk was retrieved in that conversation",
                ),
                *self._latency_spec(),
                *(tool_checks.specs(self.key("answers")) if self.spec.tools else ()),
            ],
        )
        def answers(
            context: dg.AssetExecutionContext, config: BatchConfig
        ) -> Iterator[dg.MaterializeResult[None]]:
            resources = context.resources
            weaviate: WeaviateResource = resources.weaviate
            embedder: EmbedderResource = resources.embedder
            state: StateResource = resources.state
            try:
                with leases.hold(state.engine(), f"agent {self.name}") as lease:
                    admitted = self._admit(weaviate, embedder, state)
                    look = partial(self._look, weaviate, embedder, state)
                    tools = {
                        server: getattr(resources, resource_key(server))
                        for server in self.tool_servers
                    }
                    yield asyncio.run(
                        self._run(context, config, admitted, look, lease, resources.llm, tools)
                    )
            except (UserError, ToolTransportError) as error:
                raise dg.Failure(str(error), allow_retries=False) from error

        return answers

    def _admit(
        self, weaviate: WeaviateResource, embedder: EmbedderResource, state: StateResource
    ) -> Admitted | None:
        """Ask the index's signals anew: agents spend no GPU on an index that is not true."""
        if self._index is None:
            return None
        with self._index.open(weaviate, embedder, state) as index:
            with View(index, committed=True) as view:
                readings = evaluate(view, catalogue())
            snapshot = latest(index.engine, index.name)
        admission = admit(
            self.spec.on_stale_index,
            [(signal.name, reading.state.value) for signal, reading in readings.items()],
            warnings=_warnings(),
        )
        if snapshot is None or not admission.allowed:
            raise UserError(
                f"agent {self.name} refuses to work on index {self._index.name}: "
                f"{admission.reason}",
                remedy=f"see `agent-pipelines status`, sync the index, or set on_stale_index to "
                f"`label` in {self.folder / 'defs.yaml'}",
            )
        return Admitted(snapshot, admission)

    def _look(
        self, weaviate: WeaviateResource, embedder: EmbedderResource, state: StateResource
    ) -> Admission:
        """Ask again while the batch runs: the cheap signals anew, the others as recorded."""
        assert self._index is not None
        # Where nothing can be seen, what is recorded grows old, and says so.
        with (
            suppress(UserError),
            self._index.open(weaviate, embedder, state) as index,
            View(index, committed=True) as view,
        ):
            evaluate(view, tick())
        doubts = not_true(state.engine(), self._index.name, audit_every=self._index.audit_every)
        return go_on(
            self.spec.on_stale_index,
            [(doubt.signal, doubt.state, doubt.reason) for doubt in doubts],
            warnings=_warnings(),
        )

    async def _run(
        self,
        context: dg.AssetExecutionContext,
        config: BatchConfig,
        admitted: Admitted | None,
        look: Callable[[], Admission],
        lease: leases.Lease,
        llm: LlmResource,
        tools: Mapping[str, ToolServerResource],
    ) -> dg.MaterializeResult[None]:
        from agent_pipelines.agents import answers
        from agent_pipelines.agents.batch import run_batch
        from agent_pipelines.agents.tasks import read_tasks
        from agent_pipelines.agents.tool_records import recorded
        from agent_pipelines.agents.watch import Watch

        tally = Tally()
        tasks = read_tasks(self.tasks_file(config.tasks))
        engine = lease.engine
        async with AsyncExitStack() as stack:
            sessions = {
                server: await stack.enter_async_context(resource.session(tally))
                for server, resource in tools.items()
            }
            breakers = {server: session.breaker for server, session in sessions.items()}
            if sessions:
                await stack.enter_async_context(recorded(engine, self.name, tally, breakers))
            model = await stack.enter_async_context(llm.open())
            batch = answers.open_batch(
                engine,
                self.spec,
                tasks,
                model=model.name,
                snapshot=answers.Snapshot(admitted.snapshot.index, admitted.snapshot.sequence)
                if admitted
                else None,
                false_signals=admitted.admission.false_signals if admitted else (),
            )
            name = f"{self.name}: answering"
            with progress_or_log(context.log.info).stage(name, len(tasks), "tasks") as stage:
                stage.advance(batch.answered)

                def answered(_done: int, _total: int, _outcomes: Mapping[str, int]) -> None:
                    stage.advance()
                    lease.renew()

                report = await run_batch(
                    self.spec,
                    tasks,
                    batch=batch,
                    model=model,
                    tools=ToolServers(sessions) if sessions else None,
                    engine=engine,
                    progress=answered,
                    watch=Watch(admitted.admission, look) if admitted else None,
                )
        sample = list(islice(answers.read_answers(engine, batch.batch_id), _SAMPLE))
        questions = {task.task_id: str(task.inputs.get("question", task.inputs)) for task in tasks}
        ok = report.outcomes.get("ok", 0)
        total = sum(report.outcomes.values())
        return dg.MaterializeResult(
            metadata={
                "batch": batch.batch_id,
                "tasks": len(tasks),
                "resumed": report.resumed,
                **{f"outcome_{name}": count for name, count in report.outcomes.items()},
                "prompt_tokens": report.prompt_tokens,
                "completion_tokens": report.completion_tokens,
                "tokens_per_second": round(report.tokens_per_second, 1),
                "seconds": round(report.seconds, 1),
                "latency_p50": round(report.latency_p50, 2),
                "latency_p95": round(report.latency_p95, 2),
                "model": model.name,
                **(tool_checks.metadata(tally, breakers) if sessions else {}),
                **(
                    {
                        "index": admitted.snapshot.index,
                        "snapshot": admitted.snapshot.sequence,
                        "false_signals": ", ".join(report.labels) or "none",
                        **{f"label_{name}": count for name, count in report.labels.items()},
                    }
                    if admitted
                    else {}
                ),
                "sample": dg.MarkdownMetadataValue(_sample(sample, questions)),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name="completion",
                    passed=total == len(tasks) and ok >= COMPLETION * len(tasks),
                    description=f"{ok} of {len(tasks)} ok, {total} answered",
                    metadata={"ok": ok, "answered": total, "tasks": len(tasks)},
                ),
                dg.AssetCheckResult(
                    check_name="citations_retrieved",
                    passed=report.citations_not_retrieved == 0,
                    description=f"{report.citations - report.citations_not_retrieved} of "
                    f"{report.citations} citations were retrieved",
                    metadata={"citations": report.citations},
                ),
                *self._latency_result(report.latency_p95),
                *(tool_checks.results(tally) if sessions else ()),
            ],
        )

    def _latency_spec(self) -> Iterator[dg.AssetCheckSpec]:
        if self.config.target_p95_seconds is not None:
            yield dg.AssetCheckSpec(
                "latency",
                asset=self.key("answers"),
                description=f"95% of the tasks take at most {self.config.target_p95_seconds:g} s",
            )

    def _latency_result(self, p95: float) -> Iterator[dg.AssetCheckResult]:
        if (target := self.config.target_p95_seconds) is not None:
            yield dg.AssetCheckResult(
                check_name="latency",
                passed=p95 <= target,
                # A target, not a truth: a slow machine is no reason to distrust the answers.
                severity=dg.AssetCheckSeverity.WARN,
                description=f"p95 {p95:.1f} s, target {target:g} s",
                metadata={"p95": p95},
            )


def _warnings() -> Sequence[str]:
    return [signal.name for signal in catalogue() if signal.severity == "warn"]


def _sample(answers: Sequence[Any], questions: dict[str, str]) -> str:
    blocks = []
    for answer in answers:
        output = answer.output or {}
        text = output.get("answer", output) if answer.outcome == "ok" else answer.error
        cited = "\n".join(f"- [{c.title or c.document_id}]({c.uri})" for c in answer.citations)
        blocks.append(
            f"**{questions.get(answer.task_id, answer.task_id)}**\n\n"
            + (
                f"not true then: {', '.join(answer.false_signals)}\n\n"
                if answer.false_signals
                else ""
            )
            + f"{answer.outcome}: {text}\n\n{cited}"
        )
    return "\n\n---\n\n".join(blocks)
