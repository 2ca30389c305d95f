"""A chat completion as its server sends it: the parts that a conversation needs, checked.

Belongs here: reading one. Does not belong here: asking for it (`model.py`). Not the openai client's
own types: to make those of a reply takes it a tenth of a conversation's CPU time, and they check
nothing.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel


class Function(BaseModel):
    """What is to be called."""

    name: str
    arguments: str = ""


class ToolCall(BaseModel):
    """One that the model asks for. Without a ``function`` it is of a kind that nobody offered."""

    id: str = ""
    function: Function | None = None


class AssistantMessage(BaseModel):
    """What the model says."""

    content: str | None = None
    refusal: str | None = None
    tool_calls: Sequence[ToolCall] | None = None

    def wire(self) -> dict[str, Any]:
        """The parts of it that a server takes back."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content or ""}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
                for call in self.tool_calls
                if call.function
            ]
        return message


class Choice(BaseModel):
    """One of the answers that were asked for: of us, there is one."""

    message: AssistantMessage
    finish_reason: str | None = None


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(BaseModel):
    """The body of a response."""

    choices: Sequence[Choice]
    usage: Usage | None = None
