"""What a batch has cost so far, over all its runs, by its rows in the state database.

Belongs here: adding up. Does not belong here: what it may cost (`budget.py`).
"""

from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Engine,
    and_,
    case,
    exists,
    func,
    select,
    update,
)

from agent_pipelines.agents.aside import NOTE, Aside
from agent_pipelines.agents.budget import Spent
from agent_pipelines.agents.conversation import TRACE
from agent_pipelines.agents.model import Message
from agent_pipelines.state.engine import read, write
from agent_pipelines.state.leases import Fence, unfenced
from agent_pipelines.state.tables import answers, batches, messages


def add_seconds(engine: Engine, batch_id: str, seconds: float, *, fence: Fence = unfenced) -> None:
    """A run of a batch has ended that took so long."""
    with write(engine) as connection:
        fence(connection)
        connection.execute(
            update(batches)
            .where(batches.c.batch_id == batch_id)
            .values(seconds=batches.c.seconds + seconds)
        )


def spent(engine: Engine, batch_id: str) -> Spent:
    """What a batch has cost so far, conversations that have no answer yet included."""
    row = answers.c
    started = select(batches.c.started_at).where(batches.c.batch_id == batch_id)
    of_answers = select(
        func.count(),
        _total(row.prompt_tokens),
        _total(row.completion_tokens),
        _total(row.tool_calls),
    ).where(
        row.batch_id == batch_id,
        # One that only answers anew what failed has taken over the rest.
        row.finished_at >= started.scalar_subquery(),
    )
    answered = exists().where(
        and_(row.batch_id == messages.c.batch_id, row.task_id == messages.c.task_id)
    )
    unanswered = and_(messages.c.batch_id == batch_id, ~answered)
    of_journals = select(
        _total(messages.c.message[(TRACE, "prompt_tokens")].as_integer()),
        _total(messages.c.message[(TRACE, "completion_tokens")].as_integer()),
        _total(case((messages.c.message[(TRACE, "sent")].as_boolean(), 1), else_=0)),
    ).where(unanswered)
    # A few at most: what was brought while another call of the same turn could not be made.
    noted = select(messages.c.task_id).where(
        unanswered, messages.c.message["role"].as_string() == NOTE
    )
    conversations = (
        select(messages.c.task_id, messages.c.message)
        .where(messages.c.batch_id == batch_id, messages.c.task_id.in_(noted))
        .order_by(messages.c.task_id, messages.c.ordinal)
    )
    seconds = select(batches.c.seconds).where(batches.c.batch_id == batch_id)
    with read(engine) as connection:
        count, *given = map(int, connection.execute(of_answers).one())
        begun = map(int, connection.execute(of_journals).one())
        prompt, completion, calls = map(sum, zip(given, begun, strict=True))
        streamed = connection.execution_options(stream_results=True).execute(conversations)
        for _, talk in groupby(streamed, attrgetter("task_id")):
            calls += _set_aside(each.message for each in talk)
        return Spent(prompt, completion, calls, connection.execute(seconds).scalar_one(), count)


def _total(amount: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(amount), 0)


def _set_aside(journal: Iterable[Message]) -> int:
    """Calls that were sent, and whose results are in a note only."""
    aside, brought = Aside(), 0
    for message in journal:
        trace = message.get(TRACE, {})
        if message["role"] == "assistant":
            aside, brought = Aside(), 0
        elif "is_error" in trace:
            aside.results.pop(brought, None)
            brought += 1
        elif "results" in trace:
            aside = Aside.of(message, trace) or aside
    return sum(called.sent for called in aside.results.values())
