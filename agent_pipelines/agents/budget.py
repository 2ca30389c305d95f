"""What a batch may spend, over all the runs it takes.

Belongs here: counting, and refusing what would go beyond it. Does not belong here: the limits of
one task (`conversation.py`), or what becomes of a batch whose budget is used up (`batch.py`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_pipelines.agents.model import Message, Model, ModelUnavailableError, Reply
from agent_pipelines.agents.spec import BatchLimits
from agent_pipelines.agents.tools import ToolInfo, ToolNotSentError, ToolResult, ToolSession


@dataclass(frozen=True)
class Spent:
    """What a batch has cost so far, rows without an answer included."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    tool_calls: int = 0
    seconds: float = 0.0
    answers: int = 0
    """That it has come to, without those that it took over."""

    @property
    def tokens(self) -> int:
        """Of all prompts and replies."""
        return self.prompt_tokens + self.completion_tokens


class Meter:
    """Counts what one batch spends. One event loop's: no locks."""

    def __init__(
        self,
        limits: BatchLimits,
        spent: Spent = Spent(),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        limits: of the batch.
        spent: by its earlier runs.
        clock: in seconds.
        """
        self._limits = limits
        self._clock = clock
        self._started = clock() - spent.seconds
        self._tokens = spent.tokens
        self._tool_calls = spent.tool_calls

    @property
    def used_up(self) -> str | None:
        """The limit that is reached, for people; None while there is room."""
        limits, seconds = self._limits, self._clock() - self._started
        if limits.tokens is not None and self._tokens >= limits.tokens:
            return f"{self._tokens} of {limits.tokens} tokens"
        if limits.tool_calls is not None and self._tool_calls >= limits.tool_calls:
            return f"{self._tool_calls} of {limits.tool_calls} tool calls"
        if limits.seconds is not None and seconds >= limits.seconds:
            return f"{seconds:.0f} of {limits.seconds:g} seconds"
        return None

    def refuse(self) -> None:
        """Let no request pass that the budget has no room for.

        Raises:
            ModelUnavailableError: there is none.
        """
        if used_up := self.used_up:
            raise ModelUnavailableError(f"the batch's budget is used up: {used_up}")

    def reserve_call(self) -> None:
        """Take one tool call from the budget.

        Raises:
            ToolNotSentError: there is none left.
        """
        if used_up := self.used_up:
            raise ToolNotSentError(f"the batch's budget is used up: {used_up}")
        self._tool_calls += 1

    def give_back_call(self) -> None:
        """It was not sent after all."""
        self._tool_calls -= 1

    def add_tokens(self, tokens: int) -> None:
        """What a reply has cost."""
        self._tokens += tokens


@dataclass(frozen=True)
class MeteredModel(Model):
    """A model that is asked as long as the budget lasts."""

    meter: Meter = field(kw_only=True)

    async def reply(
        self,
        messages: Sequence[Message],
        *,
        temperature: float,
        completion_tokens: int,
        options: Mapping[str, Any],
    ) -> Reply:
        """Ask for the next message; beyond the budget it is a `ModelUnavailableError`."""
        self.meter.refuse()
        reply = await super().reply(
            messages, temperature=temperature, completion_tokens=completion_tokens, options=options
        )
        self.meter.add_tokens(reply.prompt_tokens + reply.completion_tokens)
        return reply


class MeteredSession:
    """Implements `ToolSession`: its tools are called as long as the budget lasts."""

    def __init__(self, session: ToolSession, meter: Meter) -> None:
        self._session = session
        self._meter = meter

    async def list_tools(self) -> Sequence[ToolInfo]:
        """The tools there are."""
        return await self._session.list_tools()

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Call a tool; beyond the budget it is a `ToolNotSentError`."""
        self._meter.reserve_call()
        try:
            return await self._session.call(name, arguments)
        except ToolNotSentError:
            self._meter.give_back_call()
            raise
