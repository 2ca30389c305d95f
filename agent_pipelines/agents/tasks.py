"""Tasks: the input rows of a batch.

Belongs here: reading them and giving each an id. Does not belong here: what an agent does with
one, or where its answer goes.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent_pipelines.errors import UserError

_ID_CHARACTERS = 255

#: Ids that are named where more are there twice.
_NAMED = 20


@dataclass(frozen=True)
class Task:
    """One input row: any fields; most often a single one, ``question``."""

    task_id: str
    inputs: Mapping[str, Any]
    row: int | None = field(default=None, compare=False)
    """Where it stands in its source: the line or row, from 1."""

    @property
    def canonical(self) -> bytes:
        """The same bytes for the same task."""
        return json.dumps([self.task_id, self.inputs], sort_keys=True).encode()

    @property
    def prompt(self) -> str:
        """The row as the model reads it."""
        if set(self.inputs) == {"question"}:
            return str(self.inputs["question"])
        return json.dumps(self.inputs, ensure_ascii=False)


def task_from(row: Any, number: int | None = None) -> Task:
    """A task from one row; without ``task_id`` its id follows from its content.

    Raises:
        ValueError: the row is no object, has no input, or its id cannot be one.
    """
    fields = row.items() if isinstance(row, dict) else ()
    inputs = {key: value for key, value in fields if key != "task_id"}
    if not any(value not in (None, "") for value in inputs.values()):
        raise ValueError("it is not a JSON object with an input field")
    if "task_id" not in row:
        canonical = json.dumps(inputs, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return Task(hashlib.sha256(canonical.encode()).hexdigest()[:16], inputs, number)
    given = row["task_id"]
    usable = isinstance(given, str | int) and not isinstance(given, bool)
    if not usable or not 0 < len(str(given)) <= _ID_CHARACTERS:
        raise ValueError(
            f"task_id must be a number or a text of 1 to {_ID_CHARACTERS} characters, not {given!r}"
        )
    return Task(str(given), inputs, number)


def read_tasks(path: Path) -> Iterator[Task]:
    """The tasks of a JSONL file, one after the other, in its order.

    Raises:
        UserError: while iterating; the file cannot be read, a line is no task, or there is none.
    """
    empty = True
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            yield task_from(json.loads(line), number)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} is not a task: {error}",
                remedy='write one JSON object per line, such as {"question": "…"}',
            ) from error
        empty = False
    if empty:
        raise UserError(
            f"{path} holds no task", remedy='write one JSON object per line: {"question": "…"}'
        )


def distinct(tasks: Iterable[Task], source: object = "the source") -> Iterator[Task]:
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
        named = "; ".join(f"{task_id} on lines {rows}" for task_id, rows in found)
        raise UserError(
            f"{source} holds tasks twice: {named}" + (f"; and {more} more" if more else ""),
            remedy="remove the repeated lines, or give each its own task_id",
        )


def digest(tasks: Iterable[Task]) -> tuple[int, str]:
    """How many tasks there are, and what changes whenever one of them does."""
    found, count = hashlib.sha256(), 0
    for number, task in enumerate(tasks, start=1):
        found.update(task.canonical + b"\n")
        count = number
    return count, found.hexdigest()


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the tasks file {path} cannot be read: {error}",
            remedy="point `tasks` at a readable JSONL file in UTF-8",
        ) from error
