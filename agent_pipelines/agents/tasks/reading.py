"""Reading a source to its end: every row a task, no id twice.

Belongs here: what holds for every kind of source. Does not belong here: any kind of source, or
where tasks go (`staging.py`).
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from agent_pipelines.agents.tasks import RowError, Task, TaskSource, task_from
from agent_pipelines.errors import UserError
from agent_pipelines.indexing.partition import WHOLE, Partition

#: Ids that are named where more are there twice.
_NAMED = 20


@dataclass(frozen=True)
class Tasks(Iterable[Task]):
    """The tasks of a source, or of one part of it, by a hash of their ids. Each loop reads anew."""

    source: TaskSource
    partition: Partition = WHOLE

    def __str__(self) -> str:
        return str(self.source)

    def __iter__(self) -> Iterator[Task]:
        """One task after the other, in the order of the source.

        Raises:
            UserError: the source cannot be read, a row is no task, or there is none at all.
        """
        source = self.source
        empty = True
        try:
            for number, row in source.rows():
                task = _task(number, row)
                empty = False
                if self.partition.has(task.task_id):
                    yield task
        except RowError as error:
            raise UserError(
                f"{source}, {source.noun} {error.number} is not a task: {error}",
                remedy=source.remedy,
            ) from error
        if empty:
            raise UserError(f"{source} holds no task", remedy=source.remedy)


def distinct(tasks: Iterable[Task]) -> Iterator[Task]:
    """The tasks as they come; at their end, an error if two of them have one id.

    Ids are kept in a file that is gone with this process, so that memory stays as it is.

    Raises:
        UserError: at the end; it names the ids and where in the source they stand.
    """
    with closing(sqlite3.connect("", check_same_thread=False)) as seen:
        seen.execute("CREATE TABLE seen (task_id TEXT NOT NULL, row INTEGER NOT NULL)")
        for number, task in enumerate(tasks, start=1):
            seen.execute("INSERT INTO seen VALUES (?, ?)", (task.task_id, task.row or number))
            yield task
        twice = seen.execute(
            "SELECT task_id, group_concat(row, ', ') FROM (SELECT * FROM seen ORDER BY row) "
            "GROUP BY task_id HAVING count(*) > 1 ORDER BY min(row)"
        )
        found = twice.fetchmany(_NAMED)
        more = len(twice.fetchall())
    if found:
        source, noun = (tasks, tasks.source.noun) if isinstance(tasks, Tasks) else ("it", "row")
        named = "; ".join(f"{task_id} on {noun}s {rows}" for task_id, rows in found)
        raise UserError(
            f"{source} holds tasks twice: {named}" + (f"; and {more} more" if more else ""),
            remedy=f"remove the repeated {noun}s, or give each its own task_id",
        )


class Digest:
    """What changes whenever a task comes, goes or changes, and not with their order.

    It is the sum of the SHA-256 of all rows: a database that gives its rows in another order today
    gives the same work.
    """

    def __init__(self, head: bytes = b"") -> None:
        self.count = 0
        self._sum = self._number(head)

    def add(self, task: Task) -> None:
        """Take in one task."""
        self.count += 1
        self._sum += self._number(task.canonical)

    def __str__(self) -> str:
        return f"{self._sum % 2**256:064x}"

    @staticmethod
    def _number(data: bytes) -> int:
        return int.from_bytes(hashlib.sha256(data).digest(), "big")


def digest_of(tasks: Iterable[Task]) -> Digest:
    """Look at every task once.

    Raises:
        UserError: they cannot be read, or two of them have one id.
    """
    digest = Digest()
    for task in distinct(tasks):
        digest.add(task)
    return digest


def _task(number: int, row: object) -> Task:
    try:
        return task_from(row, number)
    except ValueError as error:
        raise RowError(number, error) from error
