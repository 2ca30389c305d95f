"""openai-agents, as its documentation shows a user: an agent, a function tool, `Runner.run`.

Runs in its own environment; nothing of ours is importable there. Its traces would go to a service:
they are off.
"""

import json
from typing import Any

import conversations
import protocol
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI


class OpenAIAgents:
    """Speaks `protocol`."""

    def open(self, *, url: str, model: str, state: str) -> dict[str, Any]:
        set_tracing_disabled(True)
        self._loop = conversations.Loop()
        client = AsyncOpenAI(base_url=url, api_key="none")
        self._agent = Agent(
            name="bench",
            instructions=conversations.INSTRUCTIONS,
            model=OpenAIChatCompletionsModel(model=model, openai_client=client),
            tools=[function_tool(conversations.look_up)],
        )
        return protocol.versions("openai-agents", "openai")

    def converse(self, *, count: int, at_once: int) -> dict[str, Any]:
        async def one(question: str) -> Any:
            done = await Runner.run(self._agent, question)
            return json.loads(done.final_output)

        return self._loop.hold(one, count, at_once)


if __name__ == "__main__":
    protocol.serve(OpenAIAgents())
