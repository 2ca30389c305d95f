"""Batches and their answers in the state database.

Belongs here: opening, continuing and ending a batch; writing and reading answers. Does not belong
here: producing them (`batch.py`).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, func, insert, select, update

from agent_pipelines.agents.citations import Citation
from agent_pipelines.agents.loop import Answer
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.state.engine import write
from agent_pipelines.state.tables import answers, batches


@dataclass(frozen=True)
class Snapshot:
    """The snapshot of an index that a batch starts on."""

    index: str
    sequence: int


@dataclass(frozen=True)
class Batch:
    """A batch that may run. ``answered`` > 0: an earlier run of it was cut off."""

    batch_id: str
    snapshot: Snapshot | None
    false_signals: tuple[str, ...]
    answered: int


def open_batch(
    engine: Engine,
    spec: AgentSpec,
    tasks: Sequence[Task],
    *,
    model: str,
    snapshot: Snapshot | None = None,
    false_signals: Sequence[str] = (),
) -> Batch:
    """The unfinished batch of this very work, or a new one.

    Its id follows from agent, model, tasks and snapshot, so that work which was cut off is found
    again, and anything that changed starts afresh. One opener at a time: hold a lease on the agent.
    """
    key = _key(spec, tasks, model, snapshot, false_signals)
    with write(engine) as connection:
        same = connection.execute(
            select(batches.c.batch_id, batches.c.state).where(
                batches.c.agent == spec.name, batches.c.batch_id.startswith(f"{key}-")
            )
        ).all()
        unfinished = [row.batch_id for row in same if row.state != "finished"]
        if unfinished:
            batch_id = unfinished[0]
            connection.execute(
                update(batches).where(batches.c.batch_id == batch_id).values(state="running")
            )
        else:
            batch_id = f"{key}-{len(same) + 1}"
            connection.execute(
                insert(batches).values(
                    batch_id=batch_id,
                    agent=spec.name,
                    state="running",
                    index_name=snapshot.index if snapshot else None,
                    sequence=snapshot.sequence if snapshot else None,
                    false_signals=list(false_signals),
                    started_at=datetime.now(UTC),
                )
            )
        answered = _count(connection, batch_id)
    return Batch(batch_id, snapshot, tuple(false_signals), answered)


def finish_batch(engine: Engine, batch_id: str, *, tasks: int) -> None:
    """Close a batch: rows in = rows out.

    Raises:
        RuntimeError: a task has no answer, which is a bug here; the batch stays unfinished.
    """
    with write(engine) as connection:
        answered = _count(connection, batch_id)
        if answered != tasks:
            raise RuntimeError(f"batch {batch_id}: {tasks} tasks in, {answered} answers out")
        connection.execute(
            update(batches)
            .where(batches.c.batch_id == batch_id)
            .values(state="finished", finished_at=datetime.now(UTC))
        )


def stop_batch(engine: Engine, batch_id: str) -> None:
    """Mark a batch as cut off; the next one of the same work continues it."""
    with write(engine) as connection:
        connection.execute(
            update(batches).where(batches.c.batch_id == batch_id).values(state="stopped")
        )


def record_answer(engine: Engine, batch: Batch, answer: Answer) -> None:
    """Write the answer of one task."""
    snapshot = batch.snapshot
    sequence = answer.sequence
    if sequence is None and snapshot is not None:
        sequence = snapshot.sequence
    with write(engine) as connection:
        connection.execute(
            insert(answers).values(
                batch_id=batch.batch_id,
                task_id=answer.task_id,
                outcome=answer.outcome,
                output=answer.output,
                citations=[citation.as_json() for citation in answer.citations],
                error=answer.error,
                turns=answer.turns,
                tool_calls=answer.tool_calls,
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                seconds=answer.seconds,
                index_name=snapshot.index if snapshot else None,
                sequence=sequence,
                false_signals=list(answer.false_signals),
                finished_at=datetime.now(UTC),
            )
        )


def answered_ids(engine: Engine, batch_id: str) -> set[str]:
    """Tasks of a batch that have an answer, whatever its outcome."""
    query = select(answers.c.task_id).where(answers.c.batch_id == batch_id)
    with engine.connect() as connection:
        return set(connection.execute(query).scalars())


def outcomes(engine: Engine, batch_id: str) -> Counter[str]:
    """How many answers of a batch have which outcome."""
    query = (
        select(answers.c.outcome, func.count())
        .where(answers.c.batch_id == batch_id)
        .group_by(answers.c.outcome)
    )
    with engine.connect() as connection:
        return Counter(dict(connection.execute(query).all()))


def read_answers(engine: Engine, batch_id: str) -> Iterator[Answer]:
    """The answers of a batch by task id, one at a time: a batch may be larger than memory."""
    query = select(answers).where(answers.c.batch_id == batch_id).order_by(answers.c.task_id)
    with engine.connect().execution_options(stream_results=True) as connection:
        for row in connection.execute(query):
            yield Answer(
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
            )


def _count(connection: Connection, batch_id: str) -> int:
    query = select(func.count()).select_from(answers).where(answers.c.batch_id == batch_id)
    return connection.execute(query).scalar_one()


def _key(
    spec: AgentSpec,
    tasks: Sequence[Task],
    model: str,
    snapshot: Snapshot | None,
    false_signals: Sequence[str],
) -> str:
    digest = hashlib.sha256()
    on = [snapshot.index, snapshot.sequence] if snapshot else None
    # How many run at once changes no answer.
    agent = spec.model_dump(mode="json", exclude={"concurrency"})
    head = [agent, model, on, sorted(false_signals)]
    digest.update(json.dumps(head, sort_keys=True).encode())
    for task in tasks:
        row = json.dumps([task.task_id, task.inputs], sort_keys=True)
        digest.update(row.encode() + b"\n")
    return digest.hexdigest()[:24]
