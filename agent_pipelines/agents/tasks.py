"""Tasks: the input rows of a batch.

Belongs here: reading them and giving each an id. Does not belong here: what an agent does with
one, or where its answer goes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_pipelines.errors import UserError

_ID_CHARACTERS = 255


@dataclass(frozen=True)
class Task:
    """One input row: any fields; most often a single one, ``question``."""

    task_id: str
    inputs: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """The row as the model reads it."""
        if set(self.inputs) == {"question"}:
            return str(self.inputs["question"])
        return json.dumps(self.inputs, ensure_ascii=False)


def task_from(row: Any) -> Task:
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
        return Task(hashlib.sha256(canonical.encode()).hexdigest()[:16], inputs)
    given = row["task_id"]
    usable = isinstance(given, str | int) and not isinstance(given, bool)
    if not usable or not 0 < len(str(given)) <= _ID_CHARACTERS:
        raise ValueError(
            f"task_id must be a number or a text of 1 to {_ID_CHARACTERS} characters, not {given!r}"
        )
    return Task(str(given), inputs)


def read_tasks(path: Path) -> Sequence[Task]:
    """The tasks of a JSONL file, in its order.

    Raises:
        UserError: the file cannot be read, a line is no task, or two tasks have one id.
    """
    lines: dict[str, list[int]] = {}
    tasks: list[Task] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            task = task_from(json.loads(line))
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} is not a task: {error}",
                remedy='write one JSON object per line, such as {"question": "…"}',
            ) from error
        tasks.append(task)
        lines.setdefault(task.task_id, []).append(number)
    if not tasks:
        raise UserError(
            f"{path} holds no task", remedy='write one JSON object per line: {"question": "…"}'
        )
    twice = {task_id: found for task_id, found in lines.items() if len(found) > 1}
    if twice:
        named = "; ".join(f"{key} on lines {', '.join(map(str, at))}" for key, at in twice.items())
        raise UserError(
            f"{path} holds tasks twice: {named}",
            remedy="remove the repeated lines, or give each its own task_id",
        )
    return tasks


def _lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the tasks file {path} cannot be read: {error}",
            remedy="point `tasks` at a readable JSONL file in UTF-8",
        ) from error
