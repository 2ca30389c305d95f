"""A user's LangGraph graph in the place of the loop.

Belongs here: what the graph asks for, done within the agent's limits and journal; its answer. Does
not belong here: LangChain's interfaces (`langchain_parts.py`), or the turns of an agent without a
graph (`conversation.py`).

A graph holds its state in memory, so it is run from its start whenever its conversation is held
again. Whatever it asks for that the journal has the outcome of, it is given from there: no reply is
asked for twice, and no call made. That rests on a graph which asks for the same again when it is
told the same, as LangGraph's own durable execution does.
"""

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Never
from uuid import uuid4

from pydantic import BaseModel

from agent_pipelines.agents.aside import NOTE
from agent_pipelines.agents.citations import Citation
from agent_pipelines.agents.conversation import TRACE, Conversation, Down, Ended
from agent_pipelines.agents.model import Message
from agent_pipelines.agents.modes import Admitted, Call
from agent_pipelines.class_paths import callable_at
from agent_pipelines.errors import UserError

_Known = dict[str, deque[Message]]


@dataclass
class GraphConversation(Conversation):
    """One that is held by a graph."""

    replies: _Known = field(default_factory=dict)
    """Those in the journal that nothing has asked for again, by the digest of the request."""
    results: _Known = field(default_factory=dict)
    """The same of results, by the digest of the call."""
    interrupted: dict[int, Call] = field(default_factory=dict)
    """Calls that may not be repeated, and whose result is not in the journal."""
    numbered: int = 0
    """Calls so far, each of which has a number."""
    calling: int = 0
    """Calls that are being made."""
    steps: set[asyncio.Task[Message]] = field(default_factory=set)
    """What the graph has asked for and is under way."""

    def take(self, message: Message) -> None:
        """Count a finished message, or the note that a call is about to be made, or was not."""
        trace = message.get(TRACE, {})
        number = trace.get("number")
        if message["role"] == NOTE and trace["about"]:
            self.under_way[number] = Call(**trace["about"])
        else:
            self.under_way.pop(number, None)
        self.numbered = max(self.numbered, number or 0)
        if message["role"] != NOTE:
            super().take(message)

    def _begin_turn(self) -> None:
        """A graph may ask for a reply while it waits for calls: what is known of them stays."""

    async def run(self) -> tuple[Any, Sequence[Citation]]:
        """The graph from its start, to its answer."""
        for message in self.messages:
            trace = message.get(TRACE, {})
            if "request" in trace:
                self.replies.setdefault(trace["request"], deque()).append(message)
            elif "call" in trace:
                self.results.setdefault(trace["call"], deque()).append(message)
        self.interrupted = dict(self.under_way)
        await self._open()
        said, answer = _said(str(self.spec.graph), await self._invoked())
        if self.spec.consults and not self.consulted:
            if self.last_tool_error:
                raise Ended("tool", self.last_tool_error)
            raise Ended("schema", "the graph answered without calling a tool")
        if wrong := self._what_is_wrong(answer):
            if not self.corrected:
                await self._correct(wrong)
            corrective = next(m for m in self.messages if m.get(TRACE, {}).get("corrective"))
            # The harness asks, not the graph: a grammar holds this reply to the schema.
            answer = await self._reply(
                [*said, answer, {"role": "user", "content": corrective["content"]}],
                self.mode.options(Admitted(calls=False, answer=True), self.retrieved.refs),
            )
            if wrong := self._what_is_wrong(answer):
                raise Ended("schema", wrong)
        return self._accept(answer)

    # The graph

    async def _invoked(self) -> Mapping[str, Any]:
        """What the graph leaves behind.

        Raises:
            Ended, Parked, …: as the loop does; the graph is not told.
        """
        from langgraph.errors import GraphRecursionError

        self.over: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(self._graph())
        try:
            first: set[asyncio.Future[Any]] = {running, self.over}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self.over.done():
                running.cancel()
            # What is under way may have taken effect: it comes to its end, and into the journal.
            while left := {each for each in (running, *self.steps) if not each.done()}:
                await asyncio.wait(left)
            if self.over.done():
                raise self.over.result()
            return running.result()
        except GraphRecursionError as error:
            raise Ended("budget", str(error)) from error
        finally:
            for each in (running, *self.steps):
                each.cancel()
            await asyncio.gather(running, *self.steps, return_exceptions=True)

    async def _graph(self) -> Mapping[str, Any]:
        from langchain_core.runnables import Runnable, RunnableConfig

        from agent_pipelines.agents.langchain_parts import AgentModel, agent_tool, unwired

        path = str(self.spec.graph)
        model = AgentModel(
            ask=lambda messages, options: self._step(self._reply(messages, options)),
            calls=self.mode.calls,
        )
        tools = [
            agent_tool(tool, lambda call: self._step(self._called(call))) for tool in self.toolbox
        ]
        graph = callable_at(path, field="graph")(model, tools)
        if not isinstance(graph, Runnable):
            raise UserError(
                f"graph {path} has built a {type(graph).__name__}, which nobody can run",
                remedy="return a compiled graph: `return graph.compile()`",
            )
        # Fresh, so that a checkpointer of the graph's own does not go on from an earlier run.
        thread: RunnableConfig = {"configurable": {"thread_id": str(uuid4())}}
        left: Mapping[str, Any] = await graph.ainvoke(
            {"messages": unwired(self.messages[:2])}, thread
        )
        return left

    async def _step(self, doing: Coroutine[Any, Any, Message]) -> Message:
        """Something that the graph asks for.

        It cannot cut it off, as LangGraph does with what runs beside a node that fails. And where
        the conversation ends or has to wait because of it, it does not hear of that, since
        it could take it for an error, and handle or retry it: it never gets an answer.
        """
        if self.over.done():
            doing.close()
        else:
            step = asyncio.create_task(doing)
            self.steps.add(step)
            step.add_done_callback(self._stepped)
            with suppress(Exception):
                return await asyncio.shield(step)
        never: asyncio.Future[Never] = asyncio.get_running_loop().create_future()
        return await never

    def _stepped(self, step: asyncio.Task[Message]) -> None:
        self.steps.discard(step)
        error = None if step.cancelled() else step.exception()
        if isinstance(error, Exception) and not self.over.done():
            self.over.set_result(error)

    # What it asks for

    async def _reply(self, messages: Sequence[Message], options: Mapping[str, Any]) -> Message:
        asked = json.dumps([messages, options], sort_keys=True)
        digest = hashlib.sha256(asked.encode()).hexdigest()[:16]
        if known := self.replies.get(digest):
            reply = known.popleft()
        else:
            self._check_limits(self.asking)
            reply = await self._request(messages, options, request=digest)
        if refusal := reply[TRACE].get("refusal"):
            raise Ended("refused", refusal)
        return reply

    async def _called(self, call: Call) -> Message:
        if known := self.results.get(call.digest):
            return known.popleft()
        for number, lost in self.interrupted.items():
            if lost.digest == call.digest:
                del self.interrupted[number]
                unknown = await self._result(number, call, admitted=True, interrupted=True)
                return await self._bring(call, unknown, number=number)
        admitted = self.tool_calls + self.calling < self.spec.limits.tool_calls
        self.numbered += 1
        number = self.numbered
        self.calling += admitted
        try:
            if admitted and not self._repeatable(call):
                await self._note_call(number, call)
            result = await self._result(number, call, admitted=admitted, interrupted=False)
            return await self._bring(call, result, number=number)
        except Down as down:
            if not self._repeatable(call):
                await self._note_call(number, None)
            self._give_way(down, ())
        finally:
            self.calling -= admitted

    async def _note_call(self, number: int, about: Call | None) -> None:
        """A call is about to be made, which may not be repeated; None: it was not sent after all.

        A graph's nodes call tools of their own accord: no reply in the journal tells of that.
        """
        trace = {"number": number, "about": asdict(about) if about else None}
        await self._say({"role": NOTE, "content": "", TRACE: trace})


def _said(path: str, left: Mapping[str, Any]) -> tuple[list[Message], Message]:
    """The messages that a graph leaves behind, without its answer; and that."""
    from agent_pipelines.agents.langchain_parts import wire

    if left.get("__interrupt__"):
        raise UserError(
            f"graph {path} is interrupted to ask a person, and nobody is there",
            remedy="build it without interrupts",
        )
    messages = left.get("messages")
    if not messages:
        raise UserError(
            f"graph {path} leaves no messages behind",
            remedy="give its state the key `messages`, as langgraph.graph.MessagesState has",
        )
    structured = left.get("structured_response")
    if structured is None:
        *said, last = wire(messages)
        text = last["content"]
        # What it leaves behind may still ask for calls, or be a tool's: as an answer it is a text.
        return said, {"role": "assistant", "content": text if isinstance(text, str) else ""}
    if isinstance(structured, BaseModel):
        structured = structured.model_dump(mode="json")
    return wire(messages), {"role": "assistant", "content": json.dumps(structured)}
