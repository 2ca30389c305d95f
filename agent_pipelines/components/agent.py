"""An agent as Dagster assets: `<name>/tasks` → `<name>/answers`.

Belongs here: which definitions an agent becomes. Does not belong here: the YAML's fields
(`agent_config.py`), running a batch (`agent_run.py`), how its report reads (`agent_report.py`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field, model_validator

from agent_pipelines.agents.spec import DEFAULT_LLM, SEARCH_SERVER, AgentFields, AgentSpec
from agent_pipelines.agents.tasks.catalogue import source_at
from agent_pipelines.agents.tasks.reading import Tasks, digest_of
from agent_pipelines.agents.tools import ToolTransportError
from agent_pipelines.components import agent_report, agent_sensor, run_claims
from agent_pipelines.components.agent_config import AgentConfig
from agent_pipelines.components.agent_run import BatchRun
from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.components.llm import LlmComponent, llm_key
from agent_pipelines.components.tool_server import resource_key
from agent_pipelines.errors import UserError
from agent_pipelines.indexing.partition import WHOLE, Partition, keyed


class BatchConfig(dg.Config):
    """What a person may say to one batch, in the launchpad or on the command line."""

    tasks: str | None = Field(
        default=None,
        description="Another file of tasks than the agent's own: a path or URL that ends in "
        ".jsonl, .csv or .parquet.",
    )
    rerun_failed: bool = Field(
        default=False,
        description="Answer anew only the rows of the last finished batch whose outcome is not ok. "
        "That makes a new batch of all its tasks, which starts with the good answers; the earlier "
        "batch stays as it was. The tasks are those on record: their source is not read again.",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> "BatchConfig":
        if self.rerun_failed and self.tasks:
            raise ValueError("rerun_failed is about the tasks of the last batch: leave out tasks")
        return self


class AgentComponent(dg.Component):
    """An agent: a model with instructions and tools that works through tasks."""

    def __init__(self, name: str, config: AgentConfig, folder: Path) -> None:
        self.name = name
        self.config = config
        self.folder = folder
        self.spec = AgentSpec(name=name, **config.model_dump(include=set(AgentFields.model_fields)))
        self._index: ConfiguredIndex | None = None
        self._claim: str | None = None

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
        self,
        indexes: Mapping[str, ConfiguredIndex],
        tool_servers: Collection[str] = (),
        llms: Mapping[str, LlmComponent] = MappingProxyType({}),
    ) -> None:
        """Find the index that the agent reads and its llm; called once all of them are loaded.

        Raises:
            UserError: there is none of that name, or no tool server or llm of a name that it has.
        """
        known = {SEARCH_SERVER, *tool_servers}
        for server in self.tool_servers:
            if server not in known:
                raise UserError(
                    f"agent {self.name}: there is no tool server {server!r}",
                    remedy=f"set `tool_servers` to some of: {', '.join(sorted(known))}",
                )
        if self.config.llm not in {DEFAULT_LLM, *llms}:
            raise UserError(
                f"agent {self.name}: there is no llm {self.config.llm!r}",
                remedy=f"set `llm` to one of: {', '.join(sorted({DEFAULT_LLM, *llms}))}",
            )
        llm = llms.get(self.config.llm)
        self._claim = llm.template if llm and llm.claim else None
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

    @property
    def partitions(self) -> Mapping[str, Partition]:
        """The parts of its tasks by Dagster's partition key; empty where they are not split."""
        return keyed(self.config.partitions)

    def tasks(self, other: str | None = None, *, partition: Partition = WHOLE) -> Tasks:
        """What it works through: what the YAML says, or another file, or a part of either.

        Raises:
            UserError: that other file is of no kind that there is, or the YAML's cannot be used.
        """
        if other is None:
            return Tasks(self.config.tasks.open(self.folder), partition)
        return Tasks(source_at(other).open(Path.cwd()), partition)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        del context
        job = dg.define_asset_job(
            self.job_name,
            selection=dg.AssetSelection.assets(self.key("tasks"), self.key("answers")),
            description=f"Let agent {self.name} work through its tasks.",
            tags={
                "agent": self.name,
                **(run_claims.tags(self._claim, {}) if self._claim else {}),
            },
        )
        return dg.Definitions(
            assets=[self._tasks(), self._answers()],
            jobs=[job],
            schedules=[self._schedule()],
            sensors=[
                agent_sensor.build(self.name, job, llm_key(self.config.llm), self.tool_servers)
            ],
        )

    def _schedule(self) -> dg.ScheduleDefinition:
        @dg.schedule(
            name=f"{self.job_name}_schedule",
            job_name=self.job_name,
            cron_schedule=self.config.schedule or "0 6 * * *",
            execution_timezone="UTC",
            default_status=dg.DefaultScheduleStatus.RUNNING
            if self.config.schedule
            else dg.DefaultScheduleStatus.STOPPED,
        )
        def schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
            at = context.scheduled_execution_time.isoformat()
            if not self.partitions:
                yield dg.RunRequest(run_key=at)
            for key in self.partitions:
                yield dg.RunRequest(run_key=f"{at} {key}", partition_key=key)

        return schedule

    def _common(self, asset: str, description: str) -> dict[str, Any]:
        return {
            "key": self.key(asset),
            "group_name": self.name,
            "description": f"{description}\n\n{self.config.description}".strip(),
        }

    def _tasks(self) -> Any:
        @dg.observable_source_asset(
            **self._common("tasks", "What it works through; its version is a digest.")
        )
        def tasks() -> dg.ObserveResult:
            try:
                found = self.tasks()
                digest = digest_of(found)
            except UserError as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            return dg.ObserveResult(
                data_version=dg.DataVersion(str(digest)),
                metadata={"tasks": digest.count, "source": str(found)},
            )

        return tasks

    def _answers(self) -> Any:
        upstream = [self.key("tasks")] + ([self._index.key("live")] if self._index else [])
        target = self.config.target_p95_seconds

        @dg.asset(
            **self._common("answers", "One answer per task, with its citations and outcome."),
            deps=upstream,
            kinds={"vllm"},
            tags={run_claims.CLAIM_TAG: self._claim} if self._claim else None,
            # As many runs at once as the pool of that name is given, where the instance says so.
            pool=self._claim,
            output_required=False,
            partitions_def=dg.StaticPartitionsDefinition(list(self.partitions))
            if self.partitions
            else None,
            # Named here, not as parameters: which servers there are is in the YAML.
            required_resource_keys={
                *("weaviate", "embedder", "state", llm_key(self.config.llm)),
                *map(resource_key, self.tool_servers),
            },
            check_specs=list(
                agent_report.specs(
                    self.key("answers"),
                    tools=bool(self.spec.tools),
                    target_p95_seconds=target,
                    targets=self.config.targets,
                )
            ),
        )
        def answers(
            context: dg.AssetExecutionContext, config: BatchConfig
        ) -> Iterator[dg.MaterializeResult[None] | dg.AssetObservation | dg.AssetCheckResult]:
            resources = context.resources
            run = BatchRun(
                spec=self.spec,
                yaml=self.folder / "defs.yaml",
                index=self._index,
                weaviate=resources.weaviate,
                embedder=resources.embedder,
                state=resources.state,
                llm=getattr(resources, llm_key(self.config.llm)),
                tools={
                    server: getattr(resources, resource_key(server)) for server in self.tool_servers
                },
                log=context.log.info,
                resumption=agent_sensor.resumption(context),
                waiting=context.run.tags.get(agent_sensor.BATCH_TAG),
                partition=context.partition_key if self.partitions else "",
            )
            part = self.partitions.get(run.partition, WHOLE)
            try:
                tasks = None if config.rerun_failed else self.tasks(config.tasks, partition=part)
                ended = run.run(tasks)
            except (UserError, ToolTransportError) as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            metadata = agent_report.metadata(ended, resources.state.engine(), self.config.targets)
            if ended.report.ending.kind == "finished":
                yield dg.MaterializeResult(metadata=metadata)
            else:
                # A part of the answers is not what others of this name are made from.
                yield dg.AssetObservation(
                    self.key("answers"), metadata=metadata, partition=run.partition or None
                )
            yield from agent_report.results(
                ended,
                tools=bool(self.spec.tools),
                target_p95_seconds=target,
                targets=self.config.targets,
            )

        return answers
