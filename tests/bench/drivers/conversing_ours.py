"""Ours twice: the loop alone, as the peers run, and a batch with its journal in a state database.

The tool is a function in this process for all of them: what a tool server costs is another bench
(`tool_calls.py`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import conversations
import protocol

from agent_pipelines.agents import lifecycle
from agent_pipelines.agents.batch import run_batch
from agent_pipelines.agents.loop import converse
from agent_pipelines.agents.model import Model
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import Toolbox, ToolInfo, ToolResult
from agent_pipelines.state.engine import open_engine
from resources.llm_client import Access, LlmClient


class Functions:
    """Implements `ToolSession` over the one function."""

    async def list_tools(self) -> Sequence[ToolInfo]:
        schema = {
            "type": "object",
            "properties": {"topic": {"type": "string"}},
            "required": ["topic"],
        }
        says = conversations.look_up.__doc__ or ""
        return [ToolInfo("look_up", says, schema, repeatable=True)]

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        return ToolResult(False, conversations.look_up(**arguments))


class Ours:
    """Speaks `protocol`."""

    def open(self, *, url: str, model: str, state: str) -> dict[str, Any]:
        import openai

        self._loop = conversations.Loop()
        self._spec = AgentSpec(
            name="bench", instructions=conversations.INSTRUCTIONS, tools=("look_up",)
        )
        # As `resources.llm` opens it.
        http = LlmClient(url, Access())
        client = openai.AsyncOpenAI(base_url=url, api_key="none", http_client=http)
        self._model = Model(client, model)
        self._toolbox = self._loop.run(Toolbox.open(self._spec, Functions()))
        self._engine = open_engine(f"sqlite:///{Path(state) / 'state.db'}")
        self._batches = 0
        return protocol.versions("openai")

    def converse(self, *, count: int, at_once: int) -> dict[str, Any]:
        """The loop alone: nothing is journalled."""

        async def record(_message: Mapping[str, Any]) -> None:
            return None

        async def one(question: str) -> Any:
            task = Task(question, {"question": question})
            answer = await converse(
                self._spec, task, model=self._model, toolbox=self._toolbox, record=record
            )
            return answer.output

        return self._loop.hold(one, count, at_once)

    def batch(self, *, count: int, at_once: int) -> dict[str, Any]:
        """As a user runs it: every message in the journal, every answer a row."""
        self._batches += 1
        spec = self._spec.model_copy(update={"concurrency": at_once})
        tasks = (
            Task(f"{self._batches}-{number}", {"question": f"What about incident {number}?"})
            for number in range(count)
        )
        batch = lifecycle.open_batch(self._engine, spec, tasks, model=self._model.name)
        report = self._loop.run(
            run_batch(spec, batch=batch, model=self._model, tools=Functions(), engine=self._engine)
        )
        return {"right": report.outcomes["ok"]}


if __name__ == "__main__":
    protocol.serve(Ours())
