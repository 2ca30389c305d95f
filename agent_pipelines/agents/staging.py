"""The tasks of a batch, staged in the state database as they stream from their source.

Belongs here: writing and removing them. Does not belong here: where they come from (`tasks/`), when
a batch is opened (`lifecycle.py`), or which of them are still to do (`answers.py`).
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from sqlalchemy import Engine, insert

from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tasks.reading import Digest
from agent_pipelines.state.deletion import delete_where
from agent_pipelines.state.engine import write
from agent_pipelines.state.tables import tasks as staged

#: Rows of one transaction, and what staging holds in memory.
_SLICE = 500


def stage(engine: Engine, batch_id: str, tasks: Iterable[Task], digest: Digest) -> None:
    """Write the tasks of a batch, and take each into the digest.

    A task keeps the row that it has in its source; one that has none is numbered from 1.
    """
    rows = _rows(batch_id, tasks, digest)
    while some := list(islice(rows, _SLICE)):
        with write(engine) as connection:
            connection.execute(insert(staged), some)


def unstage(engine: Engine, batch_id: str) -> None:
    """Remove what was staged for a batch."""
    delete_where(engine, staged, staged.c.batch_id == batch_id)


def _rows(batch_id: str, tasks: Iterable[Task], digest: Digest) -> Iterator[dict[str, object]]:
    for number, task in enumerate(tasks, start=1):
        digest.add(task)
        yield {
            "batch_id": batch_id,
            "ordinal": task.row or number,
            "task_id": task.task_id,
            "inputs": task.inputs,
        }
