"""What a batch is: one that may run, and those on record, of which one is the newest.

Belongs here: reading the `batches` table for whoever shows, exports or reruns one. Does not belong
here: opening or ending a batch (`lifecycle.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Select, select

from agent_pipelines.state.engine import read
from agent_pipelines.state.tables import batches


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


@dataclass(frozen=True)
class Recorded:
    """A batch on record. ``tasks`` and ``model`` are empty while its tasks are being staged."""

    batch_id: str
    agent: str
    partition: str
    state: str
    tasks: int | None
    model: str | None
    index_name: str | None
    started_at: datetime


def newest(
    engine: Engine, agent: str | None, *, partition: str | None = None, finished: bool = False
) -> Recorded | None:
    """The newest batch of an agent, or of one partition of its tasks, or (None) of all agents; of
    the API's there are many at once.
    """
    query = _columns().where(batches.c.tenant.is_(None))
    if agent is not None:
        query = query.where(batches.c.agent == agent)
    if partition is not None:
        query = query.where(batches.c.partition == partition)
    if finished:
        query = query.where(batches.c.state == "finished")
    query = query.order_by(batches.c.started_at.desc(), batches.c.batch_id.desc()).limit(1)
    with engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    return Recorded(**row._mapping) if row else None


def newest_of_all_partitions(engine: Engine, agent: str) -> Sequence[Recorded]:
    """The newest batch; of an agent whose tasks are split, that of every partition, in order.

    A partition that has had no batch is not in it; neither is one of another number of partitions.
    """
    last = newest(engine, agent)
    if last is None or not last.partition:
        return [last] if last else []
    of = int(last.partition.rpartition("-of-")[2])
    found = (newest(engine, agent, partition=f"{n}-of-{of}") for n in range(1, of + 1))
    return [batch for batch in found if batch]


def named(engine: Engine, batch_id: str) -> Recorded | None:
    """The batch of this id."""
    with engine.connect() as connection:
        row = connection.execute(_columns().where(batches.c.batch_id == batch_id)).one_or_none()
    return Recorded(**row._mapping) if row else None


def count_tasks(engine: Engine, batch_id: str) -> int:
    """How many tasks a batch has."""
    query = select(batches.c.tasks).where(batches.c.batch_id == batch_id)
    with read(engine) as connection:
        return int(connection.execute(query).scalar_one() or 0)


def _columns() -> Select[Any]:
    row = batches.c
    return select(
        *(row.batch_id, row.agent, row.partition, row.state),
        *(row.tasks, row.model, row.index_name, row.started_at),
    )
