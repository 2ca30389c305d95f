"""The life of a batch in the state database: opened, found again, ended.

Belongs here: what makes work the same, and a batch's row from its first state to its last. Does not
belong here: its answers (`answers.py`), running it (`batch.py`), or waiting without a run
(`waiting.py`).
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from agent_pipelines.agents.answers import count
from agent_pipelines.agents.batches import Batch, Snapshot
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.staging import stage, unstage
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tasks.reading import Digest, distinct
from agent_pipelines.errors import UserError
from agent_pipelines.state.engine import read, write
from agent_pipelines.state.leases import Fence, unfenced
from agent_pipelines.state.tables import answers, batches
from agent_pipelines.state.tables import tasks as staged


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
    return found, count(connection, found)


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
        answered = count(connection, batch_id)
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


def _staged(engine: Engine, batch_id: str) -> Iterator[Task]:
    query = select(staged.c.task_id, staged.c.inputs).where(staged.c.batch_id == batch_id)
    with engine.connect().execution_options(stream_results=True) as connection:
        for row in connection.execute(query):
            yield Task(*row)


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
