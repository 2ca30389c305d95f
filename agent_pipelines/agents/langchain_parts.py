"""The chat model and the tools that a LangGraph graph is built from.

Belongs here: LangChain's interfaces and forms of messages. Does not belong here: what a request or
a call leads to (`graph.py`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Never

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.utils import convert_to_messages, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool, ToolException
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from agent_pipelines.agents.conversation import TRACE
from agent_pipelines.agents.model import Message
from agent_pipelines.agents.modes import Call
from agent_pipelines.agents.tools import Tool
from agent_pipelines.errors import UserError

#: What a graph may say of a request. All else is the agent's: its model, sampling, limits.
_OPTIONS = {"tools", "tool_choice", "parallel_tool_calls", "response_format", "stop"}

#: The id of the call that a tool is run for.
_CALL_ID: ContextVar[str] = ContextVar("call_id", default="")


def wire(messages: Sequence[BaseMessage]) -> list[Message]:
    """Messages as the model server takes them."""
    sent: list[Message] = convert_to_openai_messages(messages)
    for message in sent:
        if message["role"] == "tool":
            message.pop("name", None)  # LangChain's: the protocol has none there
    return sent


def unwired(messages: Sequence[Message]) -> list[BaseMessage]:
    """The reverse of `wire`, without what is the harness's own."""
    return convert_to_messages([{k: v for k, v in m.items() if k != TRACE} for m in messages])


class AgentModel(BaseChatModel):
    """The agent's model, for graphs that await it."""

    ask: Callable[[Sequence[Message], Mapping[str, Any]], Awaitable[Message]] = Field(exclude=True)
    calls: Callable[[Message], Sequence[Call]] = Field(exclude=True)

    @property
    def _llm_type(self) -> str:
        return "agent-pipelines"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools: the agent's, or others that the graph itself sees to."""
        if isinstance(tool_choice, str) and tool_choice not in ("auto", "none", "required", "any"):
            tool_choice = {"type": "function", "function": {"name": tool_choice}}
        if tool_choice in ("any", True):
            tool_choice = "required"
        if tool_choice:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=[_described(tool) for tool in tools], **kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        del run_manager
        options = kwargs | ({"stop": stop} if stop else {})
        if others := sorted(set(options) - _OPTIONS):
            raise UserError(
                f"the graph asks its model with {', '.join(others)}",
                remedy="leave it out: the agent's YAML says what its model is asked with",
            )
        reply = await self.ask(wire(messages), options)
        return ChatResult(generations=[ChatGeneration(message=self._heard(reply))])

    def _heard(self, reply: Message) -> AIMessage:
        calls = self.calls(reply)
        prompt, completion = (reply[TRACE][f"{kind}_tokens"] for kind in ("prompt", "completion"))
        return AIMessage(
            content=reply["content"],
            tool_calls=[
                {"type": "tool_call", "id": call.call_id, "name": call.tool, "args": {**arguments}}
                for call in calls
                if (arguments := call.arguments) is not None
            ],
            invalid_tool_calls=[
                {
                    "type": "invalid_tool_call",
                    "id": call.call_id,
                    "name": call.tool,
                    "args": None,
                    "error": "the arguments are not a JSON object",
                }
                for call in calls
                if call.arguments is None
            ],
            usage_metadata=UsageMetadata(
                input_tokens=prompt, output_tokens=completion, total_tokens=prompt + completion
            ),
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Never:
        del messages, stop, run_manager, kwargs
        _must_be_awaited("model")


class AgentTool(BaseTool):
    """One tool of the agent, for graphs that await it. An error is its `ToolMessage`'s status."""

    call: Callable[[Call], Awaitable[Message]] = Field(exclude=True)
    # What the model may make of it is in the message.
    handle_tool_error: Any = True

    async def ainvoke(
        self,
        input: Any,  # noqa: A002  LangChain calls it so
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        is_call = isinstance(input, dict) and input.get("type") == "tool_call"
        token = _CALL_ID.set((input.get("id") or "") if is_call else "")
        try:
            return await super().ainvoke(input, config, **kwargs)
        finally:
            _CALL_ID.reset(token)

    # Positional, so that the tool's arguments may have any name.
    async def _arun(self, /, *args: Any, **arguments: Any) -> str:
        del args
        result = await self.call(Call(_CALL_ID.get(), self.name, arguments))
        text: str = result["content"]
        if result[TRACE]["is_error"]:
            raise ToolException(text)
        return text

    def _run(self, /, *args: Any, **arguments: Any) -> Never:
        del args, arguments
        _must_be_awaited("tools")


def agent_tool(tool: Tool, call: Callable[[Call], Awaitable[Message]]) -> AgentTool:
    """A tool as a graph takes it: without the arguments that the agent binds."""
    schema = {"properties": {}, **tool.schema}
    return AgentTool(name=tool.name, description=tool.description, args_schema=schema, call=call)


def _described(tool: dict[str, Any] | type | Callable[..., Any] | BaseTool) -> dict[str, Any]:
    if not isinstance(tool, AgentTool):
        return convert_to_openai_tool(tool)
    described = {"description": tool.description, "parameters": tool.args_schema}
    return {"type": "function", "function": {"name": tool.name, **described}}


def _must_be_awaited(what: str) -> Never:
    raise UserError(
        f"the graph calls its {what} synchronously, where its other conversations would have to "
        "wait for it",
        remedy="write its nodes as `async def`, and `await ….ainvoke(…)` in them",
    )
