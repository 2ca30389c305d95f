"""Conversations that are being held, from taking a task to its answer, and who listens to each.

Belongs here: one task's way through its place, its agent's policy, the loop and the state database;
joining one that is under way, and ending one that nobody waits for. Does not belong here: HTTP
(`app.py`, `telling.py`), or how a conversation goes (`agents/loop.py`).

What is cut off here, by a caller who hangs up, a drain or kill -9, is in the journal: the same task
asked for again goes on where it was.
"""

import asyncio
import logging
import time
from dataclasses import replace

from opentelemetry import trace
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from agent_pipelines.agents.answer import Answer, unexpected
from agent_pipelines.agents.answers import record_answer
from agent_pipelines.agents.batches import Batch, Snapshot
from agent_pipelines.agents.journal import Journal
from agent_pipelines.agents.loop import converse
from agent_pipelines.agents.model import Message
from agent_pipelines.agents.modes import mode_of
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import Toolbox, ToolTransportError
from agent_pipelines.api import records, refusals
from agent_pipelines.api.admission import ClosedError, FullError, Places
from agent_pipelines.api.agents import ServedAgent
from agent_pipelines.api.bodies import finished
from agent_pipelines.api.conversation import Conversation
from agent_pipelines.api.events import Event, events_of
from agent_pipelines.api.metrics import Metrics
from agent_pipelines.api.problems import Problem, unavailable
from agent_pipelines.errors import UserError

_log = logging.getLogger(__name__)
_tracer = trace.get_tracer(__name__)


class Conversations:
    """Of one process and one event loop: no locks."""

    def __init__(
        self, *, engine: Engine, places: Places, lookups: Places, metrics: Metrics
    ) -> None:
        """Args:
        engine: the state database.
        places: for conversations.
        lookups: for tasks that are looked up in the state database for those who only read them.
        metrics: what is counted.
        """
        self._engine = engine
        self._places = places
        self._lookups = lookups
        self._metrics = metrics
        self._held: dict[tuple[str, str, str], Conversation] = {}

    def submit(self, agent: ServedAgent, tenant: str, task: Task, *, new: bool) -> Conversation:
        """Begin to answer a task, or join those who wait for it; whoever submits must `leave`.

        Args:
            agent: who is asked.
            tenant: who asks.
            task: what.
            new: its id is ours: nobody can have asked for it before.

        Raises:
            Problem: it has the id of another one.
        """
        conversation = Conversation(agent, tenant, task, new)
        known = self._held.get(conversation.key)
        if known is not None and known.listeners:
            if known.task.inputs != task.inputs:
                raise refusals.conflict(task)
            known.listeners += 1
            return known
        # One that everybody left a moment ago ends first: two would write one journal.
        after = known.work if known else None
        conversation.listeners = 1
        conversation.work = asyncio.create_task(self._work(conversation, after))
        conversation.work.add_done_callback(lambda _: self._done(conversation))
        self._held[conversation.key] = conversation
        return conversation

    def leave(self, conversation: Conversation) -> None:
        """Listen no more; a conversation that nobody listens to is ended."""
        conversation.listeners -= 1
        if not conversation.listeners and not conversation.work.done():
            self._metrics.left.labels(conversation.agent.name).inc()
            conversation.work.cancel()

    def held(self, agent: str, tenant: str, task_id: str) -> Conversation | None:
        """The conversation about a task, if this process holds it now."""
        found = self._held.get((agent, tenant, task_id))
        return found if found is not None and found.listeners else None

    async def find(self, agent: str, tenant: str, task_id: str) -> records.Taken | None:
        """A tenant's task, as it is on record.

        Raises:
            Problem: too many are looked up already.
            UnavailableError: the state database does not answer.
        """
        try:
            async with self._lookups.place(tenant, _at_leisure):
                return await asyncio.to_thread(records.find, self._engine, agent, tenant, task_id)
        except FullError as full:
            problem = refusals.busy(full)
            self._metrics.count_refusal(problem.code)
            raise problem from full

    async def drain(self, seconds: float) -> None:
        """Begin nothing new, and let what was begun finish, for so many seconds at most.

        What is not finished then is ended, and can be resumed.
        """
        self._places.close()
        if begun := [conversation.work for conversation in self._held.values()]:
            await asyncio.wait(begun, timeout=seconds)
        for conversation in self._held.values():
            conversation.problem = refusals.draining()
            conversation.work.cancel()
        if left := [conversation.work for conversation in self._held.values()]:
            await asyncio.wait(left)

    def _done(self, conversation: Conversation) -> None:
        conversation.wake()
        if self._held.get(conversation.key) is conversation:
            del self._held[conversation.key]

    async def _work(self, conversation: Conversation, after: asyncio.Task[None] | None) -> None:
        """Answer, or say why not: never raises."""
        agent, task = conversation.agent.name, conversation.task
        try:
            if after is not None:
                await asyncio.wait({after})
            with _tracer.start_as_current_span(f"agent {agent}"):
                await self._answer(conversation)
            return
        except asyncio.CancelledError:
            # By a drain, which has said so, or because nobody listens any more.
            conversation.problem = conversation.problem or refusals.left()
        except Problem as problem:
            conversation.problem = problem
        except FullError as full:
            conversation.problem = refusals.busy(full)
        except ClosedError:
            conversation.problem = refusals.draining()
        except ToolTransportError as error:
            conversation.problem = refusals.unreachable(error)
        except UserError as error:
            conversation.problem = unavailable(error)
        except IntegrityError:
            conversation.problem = refusals.elsewhere(task)
        except SQLAlchemyError as error:
            _log.exception("the state database failed")
            conversation.problem = refusals.no_database(error)
        except Exception:
            _log.exception("task %s failed unexpectedly", task.task_id)
            conversation.problem = refusals.unexpected()
        self._metrics.count_refusal(conversation.problem.code)

    async def _answer(self, conversation: Conversation) -> None:
        agent, tenant, task = conversation.agent, conversation.tenant, conversation.task
        began = time.monotonic()
        named = {"agent": agent.name, "task_id": task.task_id}

        def waits() -> None:
            conversation.tell(Event("waiting", {**named, "before": self._places.waiting - 1}))

        # Nothing is looked up before: whoever is turned away should cost no more than that.
        async with self._places.place(tenant, waits):
            if not conversation.new:
                taken = await asyncio.to_thread(
                    records.find, self._engine, agent.name, tenant, task.task_id
                )
                if taken is not None and self._is_answered(conversation, taken):
                    return
            snapshot = await self._begin(agent)
            toolbox = await agent.toolbox()
            begun = await asyncio.to_thread(
                records.take,
                self._engine,
                agent.name,
                model=agent.model.name,
                work=agent.work,
                tenant=tenant,
                task=task,
                snapshot=snapshot,
            )
            if self._is_answered(conversation, begun):
                return
            conversation.begun = True
            conversation.tell(Event("started", named))
            answer = await self._converse(conversation, toolbox, begun.batch_id)
            if agent.policy is not None and snapshot is not None:
                admission = await asyncio.to_thread(agent.policy.end)
                if not admission.allowed:
                    raise refusals.not_true(agent.name, agent.policy.index, admission.reason)
                # What retrieved nothing rests on what there was.
                sequence = snapshot.sequence if answer.sequence is None else answer.sequence
                answer = replace(answer, sequence=sequence, false_signals=admission.false_signals)
            batch = Batch(begun.batch_id, 1, snapshot, (), 0)
            await asyncio.to_thread(record_answer, self._engine, batch, answer)
        seconds = time.monotonic() - began
        self._metrics.count(agent.name, answer, seconds)
        _log_answer(conversation, answer, seconds)
        self._tell_answer(conversation, answer)

    async def _begin(self, agent: ServedAgent) -> Snapshot | None:
        """The snapshot to work on, if it may be worked on."""
        if agent.policy is None:
            return None
        snapshot, admission = await asyncio.to_thread(agent.policy.begin)
        if snapshot is None or not admission.allowed:
            raise refusals.not_true(agent.name, agent.policy.index, admission.reason)
        return snapshot

    async def _converse(
        self, conversation: Conversation, toolbox: Toolbox, batch_id: str
    ) -> Answer:
        spec, task = conversation.agent.spec, conversation.task
        journal = Journal(self._engine, batch_id)
        history = await asyncio.to_thread(journal.read, task.task_id)
        record = journal.recorder(task.task_id, following=len(history))
        mode = mode_of(spec, toolbox, task.prompt)

        def tell(message: Message) -> None:
            for event in events_of(message, mode):
                conversation.tell(event)

        async def recorded(message: Message) -> None:
            await record(message)
            tell(message)

        for message in history:
            tell(message)
        try:
            return await converse(
                spec,
                task,
                model=conversation.agent.model,
                toolbox=toolbox,
                record=recorded,
                history=history,
            )
        except (SQLAlchemyError, UserError):
            # Without the state database nothing is answered, and all can be resumed.
            raise
        except Exception as error:  # as in a batch: whatever happened, there is an answer
            return unexpected(task.task_id, error)

    def _is_answered(self, conversation: Conversation, taken: records.Taken) -> bool:
        """Whether that is the end of it: the answer to a task that was taken in before."""
        task = conversation.task
        if taken.inputs != task.inputs:
            raise refusals.conflict(task)
        if taken.answer is not None:
            self._tell_answer(conversation, taken.answer)
            return True
        if taken.work != conversation.agent.work:
            raise refusals.changed(conversation.agent.name, task)
        return False

    def _tell_answer(self, conversation: Conversation, answer: Answer) -> None:
        body = finished(conversation.agent.name, conversation.task, answer)
        conversation.tell(Event("answer", body.model_dump(mode="json")))


def _at_leisure() -> None:
    """Nobody is told that a lookup waits: it is over in a moment."""


def _log_answer(conversation: Conversation, answer: Answer, seconds: float) -> None:
    span = trace.get_current_span().get_span_context()
    _log.info(
        "task",
        extra={
            "agent": conversation.agent.name,
            "task_id": answer.task_id,
            "outcome": answer.outcome,
            "duration_ms": round(1000 * seconds, 2),
            "caller": conversation.tenant,
            "trace_id": f"{span.trace_id:032x}" if span.is_valid else None,
        },
    )
