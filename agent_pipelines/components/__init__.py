"""YAML → assets, checks, jobs, schedules, sensors.

Belongs here: what a defs.yaml may say, and the Dagster definitions it becomes. Does not belong
here: how an index is kept or an agent is run; those rooms do not know Dagster.
"""

from agent_pipelines.components.agent import AgentComponent
from agent_pipelines.components.index import IndexComponent
from agent_pipelines.components.llm import LlmComponent
from agent_pipelines.components.tool_server import ToolServerComponent

__all__ = ["AgentComponent", "IndexComponent", "LlmComponent", "ToolServerComponent"]
