"""What the defs.yaml of an agent may say.

Belongs here: the fields that an agent has beyond its spec. Does not belong here: the spec itself
(`agents/spec.py`) or what is made of it (`agent.py`).
"""

from pydantic import Field

from agent_pipelines.agents.spec import DEFAULT_LLM, AgentFields
from agent_pipelines.agents.targets import Targets


class AgentConfig(AgentFields):
    """An agent: a model with instructions and tools that works through a file of tasks.

    The folder that the defs.yaml stands in gives the agent its name.
    """

    description: str = Field(default="", description="What the agent is for, for people.")
    tasks: str = Field(
        default="tasks.jsonl",
        description="JSON Lines, one task each; a relative path starts at this YAML's folder.",
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
        default=None, description="Cron expression, in UTC, of a batch over the tasks file."
    )
