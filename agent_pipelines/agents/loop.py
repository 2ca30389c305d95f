"""Holding one conversation: from a task to an answer, within its time.

Belongs here: how its end is classed, and who else may choose its turns. Does not belong here: the
conversation itself (`conversation.py`, `graph.py`), or running many (`batch.py`).
"""

import asyncio
import time
from collections.abc import Sequence

from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.conversation import Conversation, Ended, Parked, Record
from agent_pipelines.agents.model import (
    Message,
    Model,
    ModelError,
    ModelUnavailableError,
    silent,
)
from agent_pipelines.agents.parking import MODEL
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import Toolbox, ToolTransportError


async def converse(
    spec: AgentSpec,
    task: Task,
    *,
    model: Model,
    toolbox: Toolbox,
    record: Record,
    history: Sequence[Message] = (),
    patient: bool = False,
) -> Answer:
    """Hold the conversation for one task, from where its journal (``history``) left off.

    Args:
        spec: the agent.
        task: what it is asked.
        model: who answers.
        toolbox: what may be called.
        record: keeps every finished message.
        history: what it has kept.
        patient: where something is down, do not answer with that, but raise `Parked`.

    Raises:
        Parked: something is down, and whoever asks is patient.
    """
    conversation = _kind(spec)(spec, task, model, toolbox, record, patient)
    for message in history:
        conversation.take(message)
    conversation.resumed = len(conversation.messages)
    conversation.started = time.perf_counter() - conversation.spent
    seconds = spec.limits.seconds
    try:
        try:
            async with asyncio.timeout(max(0.0, seconds - conversation.spent)):
                output, citations = await conversation.run()
        except TimeoutError:
            # Whose time was it? A server that hangs costs no row its own.
            if conversation.asking and not await model.is_there():
                raise silent(model.name) from None
            raise
        return conversation.answer("ok", output=output, citations=citations)
    except Ended as end:
        return conversation.answer(end.outcome, error=end.error)
    except ModelUnavailableError as error:
        if patient:
            raise Parked(
                MODEL, str(error), retry_after=error.retry_after, suspicion=error.suspicion
            ) from error
        return conversation.answer("model", error=str(error))
    except ModelError as error:
        return conversation.answer("model", error=str(error))
    except ToolTransportError as error:
        return conversation.answer("transport", error=str(error))
    except TimeoutError:
        late = f"not finished within its limit of {seconds:g} seconds"
        return conversation.answer("budget", error=late)


def _kind(spec: AgentSpec) -> type[Conversation]:
    if spec.graph is None:
        return Conversation
    # Imported here: what is optional is loaded by those who use it.
    from agent_pipelines.agents.graph import GraphConversation

    return GraphConversation
