"""An agent as Dagster assets: `<name>/tasks` → `<name>/answers`.

Belongs here: which definitions an agent becomes. Does not belong here: the YAML's fields
(`agent_config.py`), running a batch (`agent_run.py`), how its report reads (`agent_report.py`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

from agent_pipelines.agents.spec import SEARCH_SERVER, AgentFields, AgentSpec
from agent_pipelines.agents.tools import ToolTransportError
from agent_pipelines.components import agent_report
from agent_pipelines.components.agent_config import AgentConfig
from agent_pipelines.components.agent_run import BatchRun
from agent_pipelines.components.configured_index import ConfiguredIndex
from agent_pipelines.components.tool_server import resource_key
from agent_pipelines.errors import UserError


class BatchConfig(dg.Config):
    """What a person may say to one batch, in the launchpad or on the command line."""

    tasks: str | None = Field(
        default=None, description="Another tasks file than the one in the agent's YAML."
    )


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
            from agent_pipelines.agents.tasks import digest, distinct, read_tasks

            file = self.tasks_file()
            count, version = digest(distinct(read_tasks(file), file))
            return dg.ObserveResult(
                data_version=dg.DataVersion(version),
                metadata={"tasks": count, "file": dg.PathMetadataValue(file)},
            )

        return tasks

    def _answers(self) -> Any:
        upstream = [self.key("tasks")] + ([self._index.key("live")] if self._index else [])
        target = self.config.target_p95_seconds

        @dg.asset(
            **self._common("answers", "One answer per task, with its citations and outcome."),
            deps=upstream,
            kinds={"vllm"},
            # Named here, not as parameters: which tool servers there are is in the YAML.
            required_resource_keys={
                *("weaviate", "embedder", "state", "llm"),
                *map(resource_key, self.tool_servers),
            },
            check_specs=list(
                agent_report.specs(
                    self.key("answers"), tools=bool(self.spec.tools), target_p95_seconds=target
                )
            ),
        )
        def answers(
            context: dg.AssetExecutionContext, config: BatchConfig
        ) -> Iterator[dg.MaterializeResult[None]]:
            from agent_pipelines.agents.tasks import read_tasks

            resources = context.resources
            run = BatchRun(
                spec=self.spec,
                yaml=self.folder / "defs.yaml",
                index=self._index,
                weaviate=resources.weaviate,
                embedder=resources.embedder,
                state=resources.state,
                llm=resources.llm,
                tools={
                    server: getattr(resources, resource_key(server)) for server in self.tool_servers
                },
                log=context.log.info,
            )
            try:
                file = self.tasks_file(config.tasks)
                ended = run.run(read_tasks(file), file)
            except (UserError, ToolTransportError) as error:
                raise dg.Failure(str(error), allow_retries=False) from error
            yield dg.MaterializeResult(
                metadata=agent_report.metadata(ended, resources.state.engine()),
                check_results=list(agent_report.results(ended, target_p95_seconds=target)),
            )

        return answers
