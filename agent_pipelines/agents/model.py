"""The model of an agent: one request, one reply, and two kinds of failure: this request's, or the
server's.

Belongs here: chat completions through the openai client. Does not belong here: what to ask
(`modes.py`, `conversation.py`) or where the server is (`resources/llm.py`).
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx2
import openai
from pydantic import ValidationError

from agent_pipelines.agents.completion import Completion, Usage
from agent_pipelines.agents.pulse import Pulse, SilentError
from agent_pipelines.agents.served import ServerReader

Message = dict[str, Any]


#: Statuses that say nothing of what was asked: of the key, the model's name, too many requests at
#: once, a gateway without a server behind it. All others from 500 on may be of either.
_OF_THE_SERVER = (401, 403, 404, 408, 409, 425, 429, 502, 503, 504)

#: Those of a gateway that has nobody behind it.
_OF_NOBODY = (502, 503, 504)

#: Seconds for the question whether the server is there.
_GREETING = 10.0


class ModelError(Exception):
    """The model server did not answer, or not with a chat completion."""


class ModelUnavailableError(ModelError):
    """It is no fault of the request, as far as one can tell: the server is down or refuses all.

    ``retry_after`` in seconds, where the server told. ``suspicion`` that the request is why, after
    all: 0: it was not sent; 1: it was refused; 2: the server failed having it.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, suspicion: int = 0
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.suspicion = suspicion


@dataclass(frozen=True)
class Reply:
    """One finished reply: the assistant's message as it goes back to the model, and its cost."""

    message: Message
    refusal: str | None
    cut_off: bool
    """Whether it ends where its limit of tokens was reached."""
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
    pulse: Pulse = field(default_factory=Pulse, compare=False)

    def asking_once(self) -> Self:
        """The same, for those who wait themselves: the client asks twice again if left to it."""
        return replace(self, client=self.client.with_options(max_retries=0))

    async def reply(
        self,
        messages: Sequence[Message],
        *,
        temperature: float,
        completion_tokens: int,
        options: Mapping[str, Any],
    ) -> Reply:
        """Ask for the next message. ``options``: whatever else the request's body holds, such as
        tools, tool_choice, response_format.

        Raises:
            ModelUnavailableError: no reply came, and the same request may bring one later.
            ModelError: no reply came.
        """
        started = time.perf_counter()
        try:
            async with self.pulse.followed(self.is_there):
                # Not chat.completions.create: to walk through messages that are JSON already, as
                # journalled, takes it a third of a conversation's CPU time.
                response = await self.client.post(
                    "/chat/completions",
                    body={
                        "model": self.name,
                        "messages": messages,
                        "temperature": temperature,
                        "max_completion_tokens": completion_tokens,
                        **options,
                    },
                    cast_to=httpx2.Response,
                )
        except SilentError as error:
            raise silent(self.name) from error
        except openai.OpenAIError as error:
            raise _failure(error) from error
        try:
            completion = Completion.model_validate_json(response.content)
        except ValidationError as error:
            # A success that is none: a gateway's page while it is down for maintenance, say.
            raise ModelUnavailableError(
                f"the model server answered with no chat completion: {response.text[:200]}",
                suspicion=2,
            ) from error
        if not completion.choices:
            raise ModelError("the model server answered without a choice")
        choice, usage = completion.choices[0], completion.usage or Usage()
        refused = choice.message.refusal
        if refused is None and choice.finish_reason == "content_filter":
            refused = "stopped by the content filter of the model server"
        return Reply(
            message=choice.message.wire(),
            refusal=refused,
            cut_off=choice.finish_reason == "length",
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            seconds=time.perf_counter() - started,
        )

    async def is_there(self) -> bool:
        """Whether its server answers at all, whatever it says."""
        try:
            await self.client.with_options(max_retries=0, timeout=_GREETING).get(
                "/models", cast_to=httpx2.Response
            )
        except openai.APIStatusError as error:
            return error.status_code not in _OF_NOBODY
        except openai.OpenAIError:
            return False
        return True


def silent(model: str) -> ModelUnavailableError:
    """It hangs: whose fault that is shows when others are answered again."""
    return ModelUnavailableError(
        f"the server of model {model} does not answer: no reply, and not whether it is there",
        suspicion=1,
    )


def _failure(error: openai.OpenAIError) -> ModelError:
    said = f"{type(error).__name__}: {str(error)[:500]}"
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        if status not in _OF_THE_SERVER and status < 500:
            return ModelError(said)
        told = _seconds(error.response.headers.get("retry-after"))
        return ModelUnavailableError(
            said, retry_after=told, suspicion=1 if status in _OF_THE_SERVER else 2
        )
    if isinstance(error, openai.APIConnectionError):
        # By name: which HTTP library the client stands on is its own affair.
        sent = type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")
        where, why = error.request.url.copy_with(query=None), error.__cause__ or "no reason"
        return ModelUnavailableError(
            f"{where}: {type(error).__name__}: {why}", suspicion=2 if sent else 0
        )
    return ModelError(said)


def _seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After header (RFC 9110, 10.2.3): a number of seconds, or a date."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after or "")
        except ValueError:
            return None
        seconds = (date.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
