"""pydantic-ai, as its documentation shows a user: an agent, a plain tool, `agent.run`.

Runs in its own environment; nothing of ours is importable there.
"""

import json
from typing import Any

import conversations
import protocol
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class PydanticAI:
    """Speaks `protocol`."""

    def open(self, *, url: str, model: str, state: str) -> dict[str, Any]:
        self._loop = conversations.Loop()
        provider = OpenAIProvider(base_url=url, api_key="none")
        self._agent = Agent(
            OpenAIChatModel(model, provider=provider),
            instructions=conversations.INSTRUCTIONS,
            tools=[conversations.look_up],
        )
        return protocol.versions("pydantic-ai-slim", "openai")

    def converse(self, *, count: int, at_once: int) -> dict[str, Any]:
        async def one(question: str) -> Any:
            done = await self._agent.run(question)
            return json.loads(done.output)

        return self._loop.hold(one, count, at_once)


if __name__ == "__main__":
    protocol.serve(PydanticAI())
