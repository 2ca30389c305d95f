"""What the defs.yaml of an agent may say.

Belongs here: the fields that an agent has beyond its spec. Does not belong here: the spec itself
(`agents/spec.py`) or what is made of it (`agent.py`).
"""

from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, Field

from agent_pipelines.agents.spec import DEFAULT_LLM, AgentFields
from agent_pipelines.agents.targets import Targets
from agent_pipelines.agents.tasks.catalogue import AnyTasks
from agent_pipelines.components.variables import filled
from agent_pipelines.indexing.partition import BUCKETS


class AgentConfig(AgentFields):
    """An agent: a model with instructions and tools that works through tasks.

    The folder that the defs.yaml stands in gives the agent its name.
    """

    # What is wrong is named, and not shown: it may be a password.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    description: str = Field(default="", description="What the agent is for, for people.")
    tasks: Annotated[AnyTasks, BeforeValidator(filled)] = Field(
        default="tasks.jsonl",
        validate_default=True,
        description="Where its tasks are: a path or fsspec URL that ends in .jsonl (OpenAI Batch "
        "requests included), .csv or .parquet; or a mapping with `kind`. A relative path starts at "
        "this YAML's folder. `{{ env.NAME }}` stands for an environment variable.",
    )
    partitions: int = Field(
        default=1,
        ge=1,
        le=BUCKETS,
        description="Into how many parts the tasks are split, by a hash of their ids. Each part is "
        "a batch of its own, answered by a run of its own (in a cluster: a pod of its own).",
    )
    target_p95_seconds: float | None = Field(
        default=None,
        gt=0,
        description="A check warns when 95% of the tasks take longer than this; it fails nothing.",
    )
    llm: str = Field(
        default=DEFAULT_LLM,
        description="Its model server: a folder of this name. `llm` is always there: without a "
        "folder it is LLM_BASE_URL, else the embedded vLLM.",
    )
    targets: Targets | None = Field(
        default=Targets(),
        description="What the model server should reach. Checks warn where it does not; null: no "
        "checks, for a server that tells nothing of itself.",
    )
    schedule: str | None = Field(
        default=None, description="Cron expression, in UTC, of a batch over the tasks."
    )
