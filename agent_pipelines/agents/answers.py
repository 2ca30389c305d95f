"""Answers in the state database: one row per task of a batch.

Belongs here: writing, reading and adding up. Does not belong here: coming to one (`batch.py`), or
opening and ending the batch (`lifecycle.py`).
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, exists, func, insert, select

from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.batches import Batch
from agent_pipelines.agents.citations import Citation
from agent_pipelines.agents.tasks import Task
from agent_pipelines.state.engine import read, write
from agent_pipelines.state.leases import Fence, unfenced
from agent_pipelines.state.tables import answers
from agent_pipelines.state.tables import tasks as staged


def unanswered(engine: Engine, batch_id: str, *, after: int, limit: int) -> Sequence[Task]:
    """Tasks of a batch that have no answer: the first ``limit`` whose row comes after ``after``."""
    answer = exists().where(
        answers.c.batch_id == staged.c.batch_id, answers.c.task_id == staged.c.task_id
    )
    query = (
        select(staged.c.task_id, staged.c.inputs, staged.c.ordinal)
        .where(staged.c.batch_id == batch_id, staged.c.ordinal > after, ~answer)
        .order_by(staged.c.ordinal)
        .limit(limit)
    )
    with read(engine) as connection:
        return [Task(*row) for row in connection.execute(query)]


def record_answer(engine: Engine, batch: Batch, answer: Answer, *, fence: Fence = unfenced) -> None:
    """Write the answer of one task.

    Raises:
        LeaseLostError: by the fence; nothing is recorded then.
    """
    snapshot = batch.snapshot
    sequence = answer.sequence
    if sequence is None and snapshot is not None:
        sequence = snapshot.sequence
    with write(engine) as connection:
        fence(connection)
        connection.execute(
            insert(answers).values(
                batch_id=batch.batch_id,
                task_id=answer.task_id,
                outcome=answer.outcome,
                output=answer.output,
                citations=[citation.as_json() for citation in answer.citations],
                error=_storable(answer.error),
                turns=answer.turns,
                tool_calls=answer.tool_calls,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                seconds=answer.seconds,
                index_name=snapshot.index if snapshot else None,
                sequence=sequence,
                false_signals=list(answer.false_signals),
                outcome_unknown=list(answer.outcome_unknown),
                calls_done=list(answer.calls_done),
                finished_at=datetime.now(UTC),
            )
        )


def _storable(text: str | None) -> str | None:
    """Text of others as every database takes it: no half a surrogate pair, and no NUL."""
    if text is None:
        return None
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def outcomes(engine: Engine, batch_id: str) -> Counter[str]:
    """How many answers of a batch have which outcome."""
    query = (
        select(answers.c.outcome, func.count())
        .where(answers.c.batch_id == batch_id)
        .group_by(answers.c.outcome)
    )
    with read(engine) as connection:
        return Counter(dict(connection.execute(query).all()))


def tokens(engine: Engine, batch_id: str) -> Counter[str]:
    """What the answers of a batch took: `prompt` and `completion` tokens."""
    prompt, completion = answers.c.prompt_tokens, answers.c.completion_tokens
    query = select(func.sum(prompt), func.sum(completion)).where(answers.c.batch_id == batch_id)
    with read(engine) as connection:
        prompts, completions = connection.execute(query).one()
    return Counter(prompt=int(prompts or 0), completion=int(completions or 0))


def read_answers(engine: Engine, batch_id: str) -> Iterator[Answer]:
    """The answers of a batch by task id, one at a time: a batch may be larger than memory."""
    query = select(answers).where(answers.c.batch_id == batch_id).order_by(answers.c.task_id)
    with engine.connect().execution_options(stream_results=True) as connection:
        for row in connection.execute(query):
            yield _answer(row)


def read_answer(connection: Connection, batch_id: str, task_id: str) -> Answer | None:
    """The answer to one task; None while there is none."""
    query = select(answers).where(answers.c.batch_id == batch_id, answers.c.task_id == task_id)
    row = connection.execute(query).one_or_none()
    return _answer(row) if row else None


def rows(engine: Engine, batch_id: str) -> Iterator[tuple[Task, Answer, datetime]]:
    """Tasks, their answers and when those were given, in the order of the source, one at a time.

    Tasks that have no answer yet are left out; once a batch is finished there are none.
    """
    query = (
        select(staged.c.inputs, staged.c.ordinal, answers)
        .join_from(
            staged,
            answers,
            (answers.c.batch_id == staged.c.batch_id) & (answers.c.task_id == staged.c.task_id),
        )
        .where(staged.c.batch_id == batch_id)
        .order_by(staged.c.ordinal)
    )
    with engine.connect().execution_options(stream_results=True) as connection:
        for row in connection.execute(query):
            task = Task(row.task_id, row.inputs, row.ordinal)
            yield task, _answer(row), row.finished_at


@dataclass(frozen=True)
class Totals:
    """What all answers of a batch come to."""

    citations: int
    citations_not_retrieved: int
    labels: Counter[str]
    """How many answers were given while a signal was not true, by signal."""


def totals(engine: Engine, batch_id: str) -> Totals:
    """Add up the answers of a batch, one at a time."""
    query = select(answers.c.citations, answers.c.false_signals)
    citations = not_retrieved = 0
    labels: Counter[str] = Counter()
    with engine.connect().execution_options(stream_results=True) as connection:
        for cited, false_signals in connection.execute(query.where(answers.c.batch_id == batch_id)):
            found = [Citation.from_json(citation) for citation in cited]
            citations += len(found)
            not_retrieved += sum(not citation.retrieved for citation in found)
            labels.update(false_signals)
    return Totals(citations, not_retrieved, labels)


def latency(engine: Engine, batch_id: str, quantile: float) -> float:
    """Seconds that this share of the answers of a batch took at most; 0 where there are none."""
    with engine.connect() as connection:
        rank = math.ceil(quantile * count(connection, batch_id)) - 1
        query = (
            select(answers.c.seconds)
            .where(answers.c.batch_id == batch_id)
            .order_by(answers.c.seconds)
            .offset(max(0, rank))
            .limit(1)
        )
        return connection.execute(query).scalar() or 0.0


def _answer(row: Row[Any]) -> Answer:
    return Answer(
        task_id=row.task_id,
        outcome=row.outcome,
        output=row.output,
        citations=[Citation.from_json(citation) for citation in row.citations],
        error=row.error,
        turns=row.turns,
        tool_calls=row.tool_calls,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        seconds=row.seconds,
        sequence=row.sequence,
        false_signals=tuple(row.false_signals),
        outcome_unknown=row.outcome_unknown,
        calls_done=row.calls_done,
    )


def count(connection: Connection, batch_id: str) -> int:
    """How many answers a batch has."""
    query = select(func.count()).select_from(answers).where(answers.c.batch_id == batch_id)
    return connection.execute(query).scalar_one()
