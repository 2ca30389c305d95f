"""Batches and their answers in the state database.

Belongs here: opening, continuing and ending a batch; writing and reading answers. Does not belong
here: producing them (`batch.py`).
"""

import json
import math
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, exists, func, insert, select, update

from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.citations import Citation
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.staging import stage, unstage
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tasks.reading import Digest, distinct
from agent_pipelines.errors import UserError
from agent_pipelines.state.engine import read, write
from agent_pipelines.state.leases import Fence, unfenced
from agent_pipelines.state.tables import answers, batches
from agent_pipelines.state.tables import tasks as staged


@dataclass(frozen=True)
class Snapshot:
    """The snapshot of an index that a batch starts on."""

    index: str
    sequence: int


@dataclass(frozen=True)
class Batch:
    """A batch that may run. ``answered`` > 0: an earlier run of it was cut off."""

    batch_id: str
    tasks: int
    snapshot: Snapshot | None
    false_signals: tuple[str, ...]
    answered: int


def open_batch(
    engine: Engine,
    spec: AgentSpec,
    tasks: Iterable[Task],
    *,
    model: str,
    snapshot: Snapshot | None = None,
    false_signals: Sequence[str] = (),
    partition: str = "",
) -> Batch:
    """The unfinished batch of this very work, or a new one, with all of its tasks staged.

    Work is the same where agent, model, tasks, partition and snapshot are, so that what was cut off
    is found again, in whatever order its tasks come now and whichever signals are false by then,
    and anything else that changed starts afresh.
    One opener at a time: hold a lease on the agent (or its partition). What one that died had
    staged is removed by the next.

    Raises:
        UserError: the tasks cannot be read, two have one id, or one lacks a field. Nothing stays.
    """
    _remove_unopened(engine, spec.name, partition)
    labels = tuple(false_signals)

    def digest() -> Digest:
        return work_of(spec, model, snapshot, partition)

    # Where it may be found again, the tasks are read once more rather than written for nothing;
    # what can be read only once is written.
    if iter(tasks) is not tasks and _has_unfinished(engine, spec.name, partition):
        work = digest()
        for task in _complete(spec, distinct(tasks)):
            work.add(task)
        with write(engine) as connection:
            found = reopen(connection, spec.name, work)
        if found is not None:
            return Batch(found[0], work.count, snapshot, labels, found[1])
    batch_id = new_id()
    with write(engine) as connection:
        connection.execute(
            insert(batches).values(
                batch_id=batch_id,
                agent=spec.name,
                state="opening",
                partition=partition,
                index_name=snapshot.index if snapshot else None,
                sequence=snapshot.sequence if snapshot else None,
                false_signals=list(labels),
                started_at=datetime.now(UTC),
            )
        )
    work = digest()
    try:
        stage(engine, batch_id, _complete(spec, distinct(tasks)), work)
        with write(engine) as connection:
            found = reopen(connection, spec.name, work)
            if found is None:
                connection.execute(
                    update(batches)
                    .where(batches.c.batch_id == batch_id)
                    .values(state="running", work=str(work), tasks=work.count, model=model)
                )
    except BaseException:
        _remove(engine, batch_id)
        raise
    if found is None:
        return Batch(batch_id, work.count, snapshot, labels, answered=0)
    _remove(engine, batch_id)
    return Batch(found[0], work.count, snapshot, labels, found[1])


def resume(
    engine: Engine,
    spec: AgentSpec,
    batch_id: str,
    *,
    model: str,
    snapshot: Snapshot | None = None,
    false_signals: Sequence[str] = (),
    partition: str = "",
) -> Batch | None:
    """A batch that was cut off or has waited, with the tasks that it has; None where it is not this
    agent's work any more.

    It goes on with the snapshot that there is now: an index moves on while a batch waits for
    something else, and each answer says what it rests on.
    """
    begun = select(batches).where(batches.c.batch_id == batch_id)
    with read(engine) as connection:
        row = connection.execute(begun).one_or_none()
    if row is None:
        return None
    before = Snapshot(row.index_name, row.sequence) if row.index_name else None
    work = work_of(spec, model, before, partition, rerun_of=row.rerun_of)
    for task in _staged(engine, batch_id):
        work.add(task)
    with write(engine) as connection:
        found = reopen(connection, spec.name, work)
    if found is None:
        return None
    return Batch(found[0], work.count, snapshot, tuple(false_signals), found[1])


def _staged(engine: Engine, batch_id: str) -> Iterator[Task]:
    query = select(staged.c.task_id, staged.c.inputs).where(staged.c.batch_id == batch_id)
    with engine.connect().execution_options(stream_results=True) as connection:
        for row in connection.execute(query):
            yield Task(*row)


def reopen(connection: Connection, agent: str, work: Digest) -> tuple[str, int] | None:
    """Go on with the unfinished batch of this work: its id, and how many answers it has."""
    found: str | None = connection.execute(
        select(batches.c.batch_id).where(
            batches.c.agent == agent, batches.c.work == str(work), batches.c.state != "finished"
        )
    ).scalar()
    if found is None:
        return None
    connection.execute(update(batches).where(batches.c.batch_id == found).values(state="running"))
    return found, _count(connection, found)


def work_of(
    spec: AgentSpec,
    model: str,
    snapshot: Snapshot | None = None,
    partition: str = "",
    *,
    rerun_of: str | None = None,
) -> Digest:
    """A digest of all that decides the answers but the tasks, which are to be added."""
    on = [snapshot.index, snapshot.sequence] if snapshot else None
    head = [spec.deciding, model, on, partition, rerun_of]
    return Digest(json.dumps(head, sort_keys=True).encode())


def new_id() -> str:
    """The id of a new batch: one that sorts by time, and that a person can type."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


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


def finish_batch(engine: Engine, batch_id: str, *, fence: Fence = unfenced) -> None:
    """Close a batch: rows in = rows out.

    Raises:
        LeaseLostError: by the fence; nothing is recorded then.
        RuntimeError: a task has no answer, which is a bug here; the batch stays unfinished.
    """
    both = staged.join(
        answers,
        (answers.c.batch_id == staged.c.batch_id) & (answers.c.task_id == staged.c.task_id),
    )
    with write(engine) as connection:
        fence(connection)
        tasks = connection.execute(
            select(batches.c.tasks).where(batches.c.batch_id == batch_id)
        ).scalar_one()
        paired = connection.execute(
            select(func.count()).select_from(both).where(staged.c.batch_id == batch_id)
        ).scalar_one()
        answered = _count(connection, batch_id)
        if not tasks == paired == answered:
            raise RuntimeError(
                f"batch {batch_id}: {tasks} tasks in, {answered} answers out, {paired} of them to "
                "these tasks"
            )
        connection.execute(
            update(batches)
            .where(batches.c.batch_id == batch_id)
            .values(state="finished", finished_at=datetime.now(UTC))
        )


def stop_batch(engine: Engine, batch_id: str, *, fence: Fence = unfenced) -> None:
    """Mark a batch as cut off; the next one of the same work continues it."""
    with write(engine) as connection:
        fence(connection)
        connection.execute(
            update(batches)
            # One that has ended meanwhile, or waits, has come further.
            .where(batches.c.batch_id == batch_id, batches.c.state == "running")
            .values(state="stopped")
        )


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


def count_tasks(engine: Engine, batch_id: str) -> int:
    """How many tasks a batch has."""
    query = select(batches.c.tasks).where(batches.c.batch_id == batch_id)
    with read(engine) as connection:
        return int(connection.execute(query).scalar_one() or 0)


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
        rank = math.ceil(quantile * _count(connection, batch_id)) - 1
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


def _complete(spec: AgentSpec, tasks: Iterable[Task]) -> Iterator[Task]:
    """The tasks, each with the fields that the agent needs."""
    for task in tasks:
        if missing := spec.task_fields - set(task.inputs):
            raise UserError(
                f"task {task.task_id!r} has no field {', '.join(sorted(missing))}, which "
                f"bound_arguments of agent {spec.name!r} stand for",
                remedy="add it to the task, or take it out of bound_arguments",
            )
        yield task


def _has_unfinished(engine: Engine, agent: str, partition: str) -> bool:
    query = select(batches.c.batch_id).where(
        batches.c.agent == agent, batches.c.partition == partition, batches.c.state != "finished"
    )
    with engine.connect() as connection:
        return connection.execute(query.limit(1)).first() is not None


def _remove_unopened(engine: Engine, agent: str, partition: str) -> None:
    """Remove what was cut off while its tasks were staged: it was never opened."""
    query = select(batches.c.batch_id).where(
        batches.c.agent == agent, batches.c.partition == partition, batches.c.state == "opening"
    )
    with engine.connect() as connection:
        found = connection.execute(query).scalars().all()
    for batch_id in found:
        _remove(engine, batch_id)


def _remove(engine: Engine, batch_id: str) -> None:
    unstage(engine, batch_id)
    with write(engine) as connection:
        connection.execute(delete(batches).where(batches.c.batch_id == batch_id))


def _count(connection: Connection, batch_id: str) -> int:
    query = select(func.count()).select_from(answers).where(answers.c.batch_id == batch_id)
    return connection.execute(query).scalar_one()
