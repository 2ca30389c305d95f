"""LangGraph through LangChain's `create_agent`, as its documentation shows a user.

Runs in its own environment; nothing of ours is importable there.
"""

import json
from typing import Any

import conversations
import protocol
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


class LangGraph:
    """Speaks `protocol`."""

    def open(self, *, url: str, model: str, state: str) -> dict[str, Any]:
        self._loop = conversations.Loop()
        self._agent = create_agent(
            ChatOpenAI(model=model, base_url=url, api_key="none"),
            tools=[tool(conversations.look_up)],
            system_prompt=conversations.INSTRUCTIONS,
        )
        return protocol.versions("langgraph", "langchain", "openai")

    def converse(self, *, count: int, at_once: int) -> dict[str, Any]:
        async def one(question: str) -> Any:
            asked = {"messages": [{"role": "user", "content": question}]}
            done = await self._agent.ainvoke(asked)
            return json.loads(done["messages"][-1].content)

        return self._loop.hold(one, count, at_once)


if __name__ == "__main__":
    protocol.serve(LangGraph())
