"""One conversation: from a task to an answer, within limits, resumable at any message.

Belongs here: whose turn it is, what the next turn may be, when it ends and how that is classed.
Does not belong here: running many (`batch.py`) or storing anything (`journal.py`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from agent_pipelines.agents.citations import Citation, Retrieved
from agent_pipelines.agents.model import Message, Model, ModelError
from agent_pipelines.agents.modes import Admitted, Call, mode_of
from agent_pipelines.agents.schemas import parsed, problem
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import Toolbox, ToolResult, ToolTransportError

Outcome = Literal["ok", "model", "tool", "transport", "budget", "schema", "refused"]

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

#: Called with every finished message, in order, before anything follows from it.
Record = Callable[[Message], Awaitable[None]]

#: The key of a journalled message that holds what the harness knows of it. Never sent to a model.
TRACE = "trace"

_OUTCOME_UNKNOWN = (
    "The outcome of this call is unknown: it was interrupted, and it is not repeated because "
    "calling it twice may not be the same as calling it once."
)


@dataclass(frozen=True)
class Answer:
    """The result of one task. Whatever happened, there is one."""

    task_id: str
    outcome: Outcome
    output: Any = None
    citations: Sequence[Citation] = ()
    error: str | None = None
    turns: int = 0
    tool_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    sequence: int | None = None
    """The snapshot it rests on, where it retrieved anything."""
    false_signals: Sequence[str] = ()
    """Signals of the index that were not true when it was given."""


class _Ended(Exception):
    """The conversation ends without an answer."""

    def __init__(self, outcome: Outcome, error: str) -> None:
        super().__init__(error)
        self.outcome = outcome
        self.error = error


async def converse(
    spec: AgentSpec,
    task: Task,
    *,
    model: Model,
    toolbox: Toolbox,
    record: Record,
    history: Sequence[Message] = (),
) -> Answer:
    """Hold the conversation for one task, from where its journal (``history``) left off."""
    conversation = _Conversation(spec, task, model, toolbox, record, resumed=len(history))
    for message in history:
        conversation.take(message)
    started = time.perf_counter()
    try:
        async with asyncio.timeout(spec.limits.seconds):
            output, citations = await conversation.run()
        return conversation.answer("ok", started, output=output, citations=citations)
    except _Ended as end:
        return conversation.answer(end.outcome, started, error=end.error)
    except ModelError as error:
        return conversation.answer("model", started, error=str(error))
    except ToolTransportError as error:
        return conversation.answer("transport", started, error=str(error))
    except TimeoutError:
        spent = f"not finished within its limit of {spec.limits.seconds:g} seconds"
        return conversation.answer("budget", started, error=spent)


@dataclass
class _Conversation:
    spec: AgentSpec
    task: Task
    model: Model
    toolbox: Toolbox
    record: Record
    resumed: int
    """How many of its messages come from the journal."""
    messages: list[Message] = field(default_factory=list)
    retrieved: Retrieved = field(default_factory=Retrieved)
    turns: int = 0
    tool_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    consulted: bool = False
    corrected: bool = False
    last_tool_error: str | None = None
    failed: dict[str, list[str]] = field(default_factory=dict)
    """What each call that was sent has brought since it last succeeded, by its digest."""

    def __post_init__(self) -> None:
        self.mode = mode_of(self.spec, self.toolbox, self.task.prompt)

    def take(self, message: Message) -> None:
        """Count a finished message, fresh or from the journal: both lead to the same state."""
        self.messages.append(message)
        trace = message.get(TRACE, {})
        if message["role"] == "assistant":
            self.turns += 1
            self.prompt_tokens += trace["prompt_tokens"]
            self.completion_tokens += trace["completion_tokens"]
        if "is_error" in trace:
            self.tool_calls += trace["sent"]
            self.retrieved.remember(trace["retrieved"])
            self.consulted = self.consulted or not trace["is_error"]
            self.last_tool_error = message["content"] if trace["is_error"] else None
            # Without a digest: from a journal that an older version began.
            if trace["is_error"] and trace["sent"] and "call" in trace:
                self.failed.setdefault(trace["call"], []).append(message["content"])
            else:
                self.failed.pop(trace.get("call"), None)
        self.corrected = self.corrected or trace.get("corrective", False)

    async def run(self) -> tuple[Any, Sequence[Citation]]:
        if not self.messages:
            await self._say({"role": "system", "content": self._system()})
        if len(self.messages) == 1:
            await self._say({"role": "user", "content": self.task.prompt})
        while True:
            asked = self._last_reply()
            if asked is None:
                await self._ask()
                continue
            refusal = asked[TRACE].get("refusal")
            if refusal:
                raise _Ended("refused", refusal)
            calls = self.mode.calls(asked)
            if calls:
                await self._call(asked, calls)
            else:
                wrong = self._what_is_wrong(asked)
                if wrong is None:
                    return self._accept(asked)
                await self._correct(wrong)

    def answer(
        self,
        outcome: Outcome,
        started: float,
        *,
        output: Any = None,
        citations: Sequence[Citation] = (),
        error: str | None = None,
    ) -> Answer:
        return Answer(
            task_id=self.task.task_id,
            outcome=outcome,
            output=output,
            citations=citations,
            error=error,
            turns=self.turns,
            tool_calls=self.tool_calls,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            seconds=time.perf_counter() - started,
            sequence=self.retrieved.sequence,
        )

    def _system(self) -> str:
        return "\n\n".join(filter(None, (self.spec.instructions.strip(), self.mode.system())))

    async def _say(self, message: Message) -> None:
        await self.record(message)
        self.take(message)

    # Whose turn it is

    def _last_reply(self) -> Message | None:
        """The last reply of the model, while something has yet to follow from it."""
        for position in range(len(self.messages) - 1, -1, -1):
            message = self.messages[position]
            if message["role"] == "assistant":
                followed = len(self.messages) - 1 - position
                # Calls without a result are left over when a batch was killed.
                expected = max(1, len(self.mode.calls(message)))
                return message if followed < expected else None
        return None

    def _admitted(self) -> Admitted:
        must_call = self.spec.consults and not self.consulted
        can_call = (
            bool(self.toolbox)
            and self.tool_calls < self.spec.limits.tool_calls
            # The last turn is for the answer, and so is the corrective one.
            and self.turns < self.spec.limits.turns - 1
            and (must_call or not self.corrected)
        )
        if must_call and not can_call:
            if self.last_tool_error:
                raise _Ended("tool", self.last_tool_error)
            raise _Ended("budget", "its limits are used up before a tool was consulted")
        return Admitted(calls=can_call, answer=not must_call)

    # The model's turn

    async def _ask(self) -> None:
        limits = self.spec.limits
        if self.turns >= limits.turns + self.corrected:
            raise _Ended("budget", f"no answer within its limit of {limits.turns} turns")
        for said in self.failed.values():
            if len(said) >= limits.same_failure:
                raise _Ended("tool", f"the same call failed {len(said)} times: {said[-1]}")
        options = self.mode.options(self._admitted(), self.retrieved.refs)
        reply = await self.model.reply(
            [{k: v for k, v in message.items() if k != TRACE} for message in self.messages],
            temperature=self.spec.temperature,
            completion_tokens=limits.completion_tokens,
            options={**options, **self.spec.extensions},
        )
        trace: dict[str, Any] = {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "seconds": round(reply.seconds, 4),
        }
        if reply.refusal:
            trace["refusal"] = reply.refusal
        await self._say({**reply.message, TRACE: trace})

    # The tools' turn

    async def _call(self, reply: Message, calls: Sequence[Call]) -> None:
        """Make the calls of a reply that have no result yet: at once, journalled in their order.

        In order, so that refs and journal are the same however long each call took.
        """
        position = next(i for i, message in enumerate(self.messages) if message is reply)
        pending = calls[len(self.messages) - 1 - position :]
        interrupted = position < self.resumed
        room = self.spec.limits.tool_calls - self.tool_calls
        results = await asyncio.gather(
            *(
                self._result(call, admitted=number < room, interrupted=interrupted)
                for number, call in enumerate(pending)
            ),
            # One call that fails must not cut off another that may already have taken effect.
            return_exceptions=True,
        )
        for call, result in zip(pending, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            await self._bring(call, *result)

    async def _result(
        self, call: Call, *, admitted: bool, interrupted: bool
    ) -> tuple[ToolResult, bool]:
        """What a call led to, and whether it was sent."""
        tool = self.toolbox.get(call.tool)
        if tool is not None and not admitted:
            limit = self.spec.limits.tool_calls
            refused = f"Not called: the limit of {limit} tool calls is reached. Answer now."
            return ToolResult(True, refused), False
        if tool is not None and interrupted and not tool.repeatable:
            return ToolResult(True, _OUTCOME_UNKNOWN), True
        sent = tool is not None and call.arguments is not None
        called = await self.toolbox.call(call.tool, call.arguments, self.task.inputs)
        return called, sent

    async def _bring(self, call: Call, result: ToolResult, sent: bool) -> None:
        known = len(self.retrieved.refs)
        characters = self.spec.limits.tool_result_characters
        text = None
        tool = self.toolbox.get(call.tool)
        if sent and tool is not None and tool.reads_index:
            text = self.retrieved.admit(result, characters=characters)
        if text is None:
            text = result.text
            if len(text) > characters:
                text = f"{text[:characters]} … ({len(text) - characters} more characters cut)"
        trace = {
            "tool": call.tool,
            "call": call.digest,
            "sent": sent,
            "is_error": result.is_error,
            "retrieved": self.retrieved.since(known),
        }
        await self._say({**self.mode.result(call, text), TRACE: trace})

    # The end

    def _what_is_wrong(self, reply: Message) -> str | None:
        if self.spec.consults and not self.consulted:
            return "call one of the tools before you answer"
        cites = bool(self.retrieved.refs)
        value = parsed(reply["content"])
        return problem(value, self.spec.output_schema, cites=cites) or self.spec.refusal(
            {key: item for key, item in value.items() if key != "citations"}
        )

    def _accept(self, reply: Message) -> tuple[Any, Sequence[Citation]]:
        output = parsed(reply["content"])
        return output, self.retrieved.resolve(output.pop("citations", []))

    async def _correct(self, wrong: str) -> None:
        if self.corrected:
            raise _Ended("schema", wrong)
        text = f"Your reply was not accepted: {wrong}. Reply again."
        await self._say({"role": "user", "content": text, TRACE: {"corrective": True}})
