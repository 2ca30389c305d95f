"""The model of an agent: one request, one reply, and one kind of failure.

Belongs here: chat completions through the openai client. Does not belong here: what to ask
(`modes.py`, `loop.py`) or where the server is (`resources/llm.py`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from agent_pipelines.agents.served import ServerReader

Message = dict[str, Any]


class ModelError(Exception):
    """The model server did not answer, or not with a chat completion."""


@dataclass(frozen=True)
class Reply:
    """One finished reply: the assistant's message as it goes back to the model, and its cost."""

    message: Message
    refusal: str | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True)
class Model:
    """A model behind an OpenAI-compatible server; the client retries what may be retried."""

    client: openai.AsyncOpenAI
    name: str
    server: ServerReader | None = None
    """Tells how busy its server is, where the server tells; None: nobody to ask."""
    gpus: int | None = None
    """GPUs that its server runs on; 0: a CPU; None: nobody here knows."""

    async def reply(
        self,
        messages: Sequence[Message],
        *,
        temperature: float,
        completion_tokens: int,
        options: Mapping[str, Any],
    ) -> Reply:
        """Ask for the next message. ``options``: tools, tool_choice, response_format.

        Raises:
            ModelError: no reply came.
        """
        started = time.perf_counter()
        try:
            completion = await self.client.chat.completions.create(
                model=self.name,
                messages=messages,  # type: ignore[arg-type]  # plain dicts, as journalled
                temperature=temperature,
                max_completion_tokens=completion_tokens,
                **options,
            )
        except openai.OpenAIError as error:
            raise ModelError(f"{type(error).__name__}: {error}") from error
        if not completion.choices:
            raise ModelError("the model server answered without a choice")
        choice = completion.choices[0]
        usage = completion.usage
        refused = choice.message.refusal
        if refused is None and choice.finish_reason == "content_filter":
            refused = "stopped by the content filter of the model server"
        return Reply(
            message=_wire(choice.message),
            refusal=refused,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            seconds=time.perf_counter() - started,
        )


def _wire(message: Any) -> Message:
    """The parts of an assistant's message that a server takes back."""
    wire: Message = {"role": "assistant", "content": message.content or ""}
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in message.tool_calls
            if call.type == "function"
        ]
    return wire
