"""One conversation that is being held, resumable at any message.

Belongs here: whose turn it is, what the next turn may be, the calls of a turn, and when it ends.
Does not belong here: how its end is classed (`loop.py`), storing anything (`journal.py`) or waiting
for what is down (`parking.py`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Never

from agent_pipelines.agents.answer import Answer, Outcome
from agent_pipelines.agents.aside import NOTE, Aside, Called
from agent_pipelines.agents.citations import Citation, Retrieved
from agent_pipelines.agents.model import Message, Model
from agent_pipelines.agents.modes import Admitted, Call, mode_of
from agent_pipelines.agents.schemas import parsed, problem
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import (
    Toolbox,
    ToolNotSentError,
    ToolResult,
    ToolTransportError,
    ToolUnavailableError,
)

#: Called with every finished message, in order, before anything follows from it.
Record = Callable[[Message], Awaitable[None]]

#: The key of a journalled message that holds what the harness knows of it. Never sent to a model.
TRACE = "trace"

_OUTCOME_UNKNOWN = (
    "The outcome of this call is unknown: it was interrupted, and it is not repeated because "
    "calling it twice may not be the same as calling it once."
)


class Ended(Exception):
    """The conversation ends without an answer."""

    def __init__(self, outcome: Outcome, error: str) -> None:
        super().__init__(error)
        self.outcome = outcome
        self.error = error


class Parked(Exception):
    """The conversation cannot go on before ``what`` (`MODEL`, or a tool server) is back.

    What is finished is in its journal; held again from there, it makes no call twice.
    """

    def __init__(
        self,
        what: str,
        reason: str,
        *,
        retry_after: float | None = None,
        suspicion: int = 0,
        answered: bool = False,
    ) -> None:
        """Args:
        what: is down.
        reason: what shows that.
        retry_after: seconds that it asked for.
        suspicion: that this very request is why. 0: it was not sent; 1: it was refused; 2: the
            server failed having it.
        answered: it has answered another call of the same turn since.
        """
        super().__init__(reason)
        self.what = what
        self.retry_after = retry_after
        self.suspicion = suspicion
        self.answered = answered


class Down(Exception):
    """A call that can be made later: its server is down."""

    def __init__(self, server: str, error: ToolTransportError) -> None:
        super().__init__(str(error))
        self.server = server
        self.error = error


def _named(call: Call) -> Mapping[str, Any]:
    return {"tool": call.tool, "arguments": call.arguments}


@dataclass
class Conversation:
    """One that is being held, by the model's own choice of tools and answers; see `converse`."""

    spec: AgentSpec
    task: Task
    model: Model
    toolbox: Toolbox
    record: Record
    patient: bool
    resumed: int = 0
    """How many of its messages come from the journal."""
    started: float = field(default_factory=time.perf_counter)
    """When it would have begun, had it been held without a break."""
    spent: float = 0.0
    """Seconds of its own time by its last finished message."""
    messages: list[Message] = field(default_factory=list)
    retrieved: Retrieved = field(default_factory=Retrieved)
    turns: int = 0
    tool_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    consulted: bool = False
    corrected: bool = False
    cut_off: bool = False
    """Whether the last reply ends where its limit of tokens was reached."""
    last_tool_error: str | None = None
    failed: dict[str, list[str]] = field(default_factory=dict)
    """What each call that was sent has brought since it last succeeded, by its digest."""
    asking: int = 0
    """Replies that the model has been asked for, and that have not come."""
    brought: int = 0
    """Results of this turn's calls so far."""
    aside: Aside = field(default_factory=Aside)
    under_way: dict[int, Call] = field(default_factory=dict)
    """Calls of this turn that have been sent and may not be repeated."""
    unknown: list[Mapping[str, Any]] = field(default_factory=list)
    done: list[Mapping[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mode = mode_of(self.spec, self.toolbox, self.task.prompt)

    def take(self, message: Message) -> None:
        """Count a finished message, fresh or from the journal: both lead to the same state."""
        trace = message.get(TRACE, {})
        if (noted := Aside.of(message, trace)) is not None:
            self.aside = noted
            return
        self.messages.append(message)
        if "spent" in trace:
            self.spent = trace["spent"]
        if message["role"] == "assistant":
            self._begin_turn()
            self.turns += 1
            self.cut_off = trace.get("cut_off", False)
            self.prompt_tokens += trace["prompt_tokens"]
            self.completion_tokens += trace["completion_tokens"]
        if "is_error" in trace:
            self.aside.results.pop(self.brought, None)
            self.brought += 1
            self.tool_calls += trace["sent"]
            self.retrieved.remember(trace["retrieved"])
            self.unknown += [trace["unknown"]] if trace.get("unknown") else []
            self.done += [trace["done"]] if trace.get("done") else []
            self.consulted = self.consulted or not trace["is_error"]
            self.last_tool_error = message["content"] if trace["is_error"] else None
            # Without a digest: from a journal that an older version began.
            if trace["is_error"] and trace["sent"] and "call" in trace:
                self.failed.setdefault(trace["call"], []).append(message["content"])
            else:
                self.failed.pop(trace.get("call"), None)
        self.corrected = self.corrected or trace.get("corrective", False)

    @property
    def seconds(self) -> float:
        """Its own time so far, in whichever run of its batch.

        Time that has led to a finished message, and what has passed since it is held this time:
        what ended in an outage, or was cut off, is not its own.
        """
        return time.perf_counter() - self.started

    def _begin_turn(self) -> None:
        self.aside, self.under_way, self.brought = Aside(), {}, 0

    async def run(self) -> tuple[Any, Sequence[Citation]]:
        """From where it is to its answer: the output, and what that rests on."""
        await self._open()
        while True:
            asked = self._last_reply()
            if asked is None:
                await self._ask()
                continue
            refusal = asked[TRACE].get("refusal")
            if refusal:
                raise Ended("refused", refusal)
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
        *,
        output: Any = None,
        citations: Sequence[Citation] = (),
        error: str | None = None,
    ) -> Answer:
        aside = self.aside.results.values()
        return Answer(
            task_id=self.task.task_id,
            outcome=outcome,
            output=output,
            citations=citations,
            error=error,
            turns=self.turns,
            tool_calls=self.tool_calls + sum(called.sent for called in aside),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            seconds=self.seconds,
            sequence=self.retrieved.sequence,
            outcome_unknown=[
                *self.unknown,
                *(called.unknown for called in aside if called.unknown),
                *map(_named, self.under_way.values()),
            ],
            calls_done=[*self.done, *(called.done for called in aside if called.done)],
        )

    async def _open(self) -> None:
        if not self.messages:
            await self._say({"role": "system", "content": self._system()})
        if len(self.messages) == 1:
            await self._say({"role": "user", "content": self.task.prompt})

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
                raise Ended("tool", self.last_tool_error)
            raise Ended("budget", "its limits are used up before a tool was consulted")
        return Admitted(calls=can_call, answer=not must_call)

    # The model's turn

    async def _ask(self) -> None:
        self._check_limits()
        options = self.mode.options(self._admitted(), self.retrieved.refs)
        asked = [{k: v for k, v in message.items() if k != TRACE} for message in self.messages]
        await self._request(asked, options)

    def _check_limits(self, asking: int = 0) -> None:
        """Whether one more reply may be asked for, while so many others are being given."""
        limits = self.spec.limits
        if self.turns + asking >= limits.turns + self.corrected:
            raise Ended("budget", f"no answer within its limit of {limits.turns} turns")
        spent = self.prompt_tokens + self.completion_tokens
        if limits.tokens is not None and spent >= limits.tokens:
            raise Ended("budget", f"no answer within its limit of {limits.tokens} tokens")
        for said in self.failed.values():
            if len(said) >= limits.same_failure:
                raise Ended("tool", f"the same call failed {len(said)} times: {said[-1]}")

    async def _request(
        self, messages: Sequence[Message], options: Mapping[str, Any], **noted: Any
    ) -> Message:
        """Ask for a reply, and keep it; ``noted`` goes into its trace."""
        self.asking += 1
        reply = await self.model.reply(
            messages,
            temperature=self.spec.temperature,
            completion_tokens=self.spec.limits.completion_tokens,
            options={**options, **self.spec.extensions},
        )
        trace: dict[str, Any] = {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "seconds": round(reply.seconds, 4),
            "spent": round(self.seconds, 4),
            **noted,
        }
        if reply.refusal:
            trace["refusal"] = reply.refusal
        if reply.cut_off:
            trace["cut_off"] = True
        message = {**reply.message, TRACE: trace}
        await self._say(message)
        self.asking -= 1  # one that is cut off stays counted
        return message

    # The tools' turn

    async def _call(self, reply: Message, calls: Sequence[Call]) -> None:
        """Make the calls of a reply that have no result yet: at once, journalled in their order.

        In order, so that refs and journal are the same however long each call took.
        """
        position = next(i for i, message in enumerate(self.messages) if message is reply)
        done = self.brought
        interrupted = position < self.resumed
        room = self.spec.limits.tool_calls - self.tool_calls
        if resent := {n for n in self.aside.unsent if not self._repeatable(calls[n])}:
            # They are about to be: from here on nobody knows.
            self.aside.unsent -= resent
            await self._note()
        before = set(self.aside.results)
        results = await asyncio.gather(
            *(
                self._keep(
                    number,
                    calls[number],
                    admitted=number - done < room,
                    interrupted=interrupted and number not in resent,
                )
                for number in range(done, len(calls))
            ),
            # One call that fails must not cut off another that may already have taken effect.
            return_exceptions=True,
        )
        found: dict[int, Called] = {}
        down: dict[int, Down] = {}
        failure: BaseException | None = None
        for number, result in enumerate(results, start=done):
            if isinstance(result, Called):
                found[number] = result
            elif isinstance(result, Down):
                down[number] = result
            else:
                failure = failure or result
        if failure is not None:
            await self._note()  # what the others have brought is not lost with it
            raise failure
        well = {
            self._server(calls[number])
            for number, called in found.items()
            if called.sent and not called.unknown and number not in before
        }
        unsent = {n for n, each in down.items() if isinstance(each.error, ToolNotSentError)}
        self.aside = Aside(dict(found), unsent)
        if down:
            if found or any(not self._repeatable(calls[number]) for number in unsent):
                await self._note()
            self._give_way(next(iter(down.values())), well)
        for number, called in found.items():
            await self._bring(calls[number], called)

    def _repeatable(self, call: Call) -> bool:
        tool = self.toolbox.get(call.tool)
        return tool is None or tool.repeatable

    def _server(self, call: Call) -> str | None:
        tool = self.toolbox.get(call.tool)
        return tool.server if tool else None

    async def _keep(self, number: int, call: Call, *, admitted: bool, interrupted: bool) -> Called:
        """The same; known to the row from then on, should its time end before the others'."""
        called = await self._result(number, call, admitted=admitted, interrupted=interrupted)
        self.aside.results[number] = called
        return called

    async def _result(
        self, number: int, call: Call, *, admitted: bool, interrupted: bool
    ) -> Called:
        """What a call led to.

        Raises:
            Down: it can be made later.
        """
        if number in self.aside.results:
            return self.aside.results[number]
        tool = self.toolbox.get(call.tool)
        if tool is None or call.arguments is None:
            refusal = await self.toolbox.call(call.tool, call.arguments, self.task.inputs)
            if self.cut_off and call.arguments is None:
                refusal = replace(refusal, text=f"{refusal.text} It was {self._cut_off()}.")
            return Called(refusal, sent=False)
        if not admitted:
            limit = self.spec.limits.tool_calls
            refused = f"Not called: the limit of {limit} tool calls is reached. Answer now."
            return Called(ToolResult(True, refused), sent=False)
        lost = Called(ToolResult(True, _OUTCOME_UNKNOWN), sent=True, unknown=_named(call))
        if interrupted and not tool.repeatable:
            return lost
        if not tool.repeatable:
            self.under_way[number] = call
        try:
            result = await self.toolbox.call(call.tool, call.arguments, self.task.inputs)
        except ToolNotSentError as error:
            self.under_way.pop(number, None)
            raise Down(tool.server, error) from error
        except ToolTransportError as error:
            self.under_way.pop(number, None)
            if tool.repeatable:
                raise Down(tool.server, error) from error
            return lost
        self.under_way.pop(number, None)
        if result.outage and tool.repeatable and self.patient:
            # The tool's own word that it can do nothing now, which would be the model's last.
            raise Down(tool.server, ToolTransportError(f"{result.outage} is down"))
        # One that the tool says has failed may be tried again.
        done = None if tool.repeatable or result.is_error else _named(call)
        return Called(result, sent=True, done=done)

    def _give_way(self, down: Down, well: Collection[str | None]) -> Never:
        """End here, where a call cannot be made now."""
        error = down.error
        if not self.patient:
            raise error
        raise Parked(
            down.server,
            str(error),
            retry_after=error.retry_after if isinstance(error, ToolUnavailableError) else None,
            suspicion=0 if isinstance(error, ToolNotSentError) else 2,
            answered=down.server in well,
        ) from error

    async def _note(self) -> None:
        await self.record({"role": NOTE, "content": "", TRACE: self.aside.note()})

    async def _bring(self, call: Call, called: Called, **noted: Any) -> Message:
        """Keep the message that brings a result to the model; ``noted`` goes into its trace."""
        result = called.result
        known = len(self.retrieved.refs)
        characters = self.spec.limits.tool_result_characters
        text = None
        tool = self.toolbox.get(call.tool)
        if called.sent and tool is not None and tool.reads_index:
            text = self.retrieved.admit(result, characters=characters)
        if text is None:
            text = result.text
            if len(text) > characters:
                text = f"{text[:characters]} … ({len(text) - characters} more characters cut)"
        trace = {
            "tool": call.tool,
            "call": call.digest,
            "sent": called.sent,
            "is_error": result.is_error,
            "retrieved": self.retrieved.since(known),
            "spent": round(self.seconds, 4),
            **noted,
        }
        if called.unknown:
            trace["unknown"] = called.unknown
        if called.done:
            trace["done"] = called.done
        message = {**self.mode.result(call, text), TRACE: trace}
        await self._say(message)
        return message

    # The end

    def _what_is_wrong(self, reply: Message) -> str | None:
        if self.spec.consults and not self.consulted:
            return "call one of the tools before you answer"
        cites = bool(self.retrieved.refs)
        value = parsed(reply["content"])
        wrong = problem(value, self.spec.output_schema, cites=cites) or self.spec.refusal(
            {key: item for key, item in value.items() if key != "citations"}
        )
        return f"{wrong}: it was {self._cut_off()}" if wrong and self.cut_off else wrong

    def _cut_off(self) -> str:
        limit = self.spec.limits.completion_tokens
        return f"cut off at {limit} tokens, the limit of one reply (completion_tokens)"

    def _accept(self, reply: Message) -> tuple[Any, Sequence[Citation]]:
        output = parsed(reply["content"])
        return output, self.retrieved.resolve(output.pop("citations", []))

    async def _correct(self, wrong: str) -> None:
        if self.corrected:
            raise Ended("schema", wrong)
        text = f"Your reply was not accepted: {wrong}. Reply again."
        await self._say({"role": "user", "content": text, TRACE: {"corrective": True}})
