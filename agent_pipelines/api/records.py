"""Tasks of the API in the state database: rows like those of any batch.

Belongs here: finding a task by the id that its tenant gave it, and taking in a new one. Does not
belong here: answers and journals, which are written as a batch's are (`agents`).

There is one batch for each agent, tenant and UTC day: small enough to expire whole, and named after
what it is, so that any replica of the API opens the same one. It ends with its day.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select

from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.answers import read_answer
from agent_pipelines.agents.batches import Snapshot
from agent_pipelines.agents.tasks import Task
from agent_pipelines.state.engine import alone, read, write
from agent_pipelines.state.tables import batches, tasks
from agent_pipelines.state.upsert import upsert

#: Of a batch that no job runs.
STATE = "interactive"

#: Tasks are taken in one after the other, so that of two with one id the second finds the first;
#: the number is arbitrary, fixed.
_LOCK = 7_205_933


@dataclass(frozen=True)
class Taken:
    """A task that was taken in, now or before."""

    batch_id: str
    inputs: Mapping[str, Any]
    work: str
    """The digest of the agent that it is for."""
    answer: Answer | None

    def task(self, task_id: str) -> Task:
        """The task of this id."""
        return Task(task_id, self.inputs)


def find(engine: Engine, agent: str, tenant: str, task_id: str) -> Taken | None:
    """A tenant's task by its id; None: there is none.

    Raises:
        UnavailableError: the state database does not answer.
    """
    with read(engine) as connection:
        return _find(connection, agent, tenant, task_id)


def take(
    engine: Engine,
    agent: str,
    *,
    model: str,
    work: str,
    tenant: str,
    task: Task,
    snapshot: Snapshot | None,
) -> Taken:
    """Take in a task, unless one of its id is there already.

    Args:
        engine: the state database.
        agent: its name.
        model: its model's.
        work: its digest.
        tenant: whose task it is.
        task: what it is.
        snapshot: what its index has now.

    Raises:
        UnavailableError: the state database does not answer.
    """
    now = datetime.now(UTC)
    batch_id = _batch_id(agent, work, tenant, now)
    with write(engine) as connection:
        alone(connection, _LOCK)
        if found := _find(connection, agent, tenant, task.task_id):
            return found
        row: dict[str, Any] = {
            "batch_id": batch_id,
            "agent": agent,
            "tenant": tenant,
            "state": STATE,
            "work": work,
            "model": model,
            "index_name": snapshot.index if snapshot else None,
            "sequence": snapshot.sequence if snapshot else None,
            "false_signals": [],
            "started_at": now,
            "finished_at": datetime.combine(now.date() + timedelta(days=1), time(), UTC),
        }
        upsert(connection, batches, [row], overwrite=("batch_id",))
        last = func.coalesce(func.max(tasks.c.ordinal), 0)
        ordinal = connection.execute(select(last).where(tasks.c.batch_id == batch_id)).scalar_one()
        connection.execute(
            insert(tasks).values(
                batch_id=batch_id,
                ordinal=ordinal + 1,
                task_id=task.task_id,
                inputs=task.inputs,
            )
        )
    return Taken(batch_id, task.inputs, work, None)


def _find(connection: Connection, agent: str, tenant: str, task_id: str) -> Taken | None:
    query = (
        select(tasks.c.batch_id, tasks.c.inputs, batches.c.work)
        .join(batches, batches.c.batch_id == tasks.c.batch_id)
        .where(batches.c.agent == agent, batches.c.tenant == tenant, tasks.c.task_id == task_id)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    answer = read_answer(connection, row.batch_id, task_id)
    return Taken(row.batch_id, row.inputs, row.work, answer)


def _batch_id(agent: str, work: str, tenant: str, now: datetime) -> str:
    whose = json.dumps([agent, work, tenant, now.date().isoformat()])
    return f"{hashlib.sha256(whose.encode()).hexdigest()[:24]}-{STATE}"
