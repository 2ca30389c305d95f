"""Tasks, the input rows of a batch, and what a source of them is. One file beside this per kind.

Belongs here: what a task is, and the protocol between a source and a batch. Does not belong here: a
kind of source, or reading one to its end (`reading.py`).
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

_ID_CHARACTERS = 255


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
        ValueError: the row is no object, has no input, holds what is no Unicode, or its id cannot
            be one.
    """
    fields = row.items() if isinstance(row, Mapping) else ()
    inputs = {key: value for key, value in fields if key != "task_id"}
    if not any(value not in (None, "") for value in inputs.values()):
        raise ValueError("it is not a JSON object with an input field")
    canonical = json.dumps(inputs, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    given = row.get("task_id", digest[:16])
    usable = isinstance(given, str | int) and not isinstance(given, bool)
    if not usable or not 0 < len(str(given)) <= _ID_CHARACTERS or "\0" in str(given):
        raise ValueError(
            f"task_id must be a number or a text of 1 to {_ID_CHARACTERS} characters, not {given!r}"
        )
    task_id = str(given)
    task_id.encode()
    return Task(task_id, inputs, number)


class RowError(Exception):
    """One row of a source is no task. ``number``: the line or row, from 1."""

    def __init__(self, number: int, reason: object) -> None:
        super().__init__(str(reason))
        self.number = number


class TaskSource(ABC):
    """Where tasks come from. ``str()`` of it says so to people, without any password."""

    noun: ClassVar[str] = "row"
    """What its numbers count."""
    remedy: ClassVar[str] = "give every row a value in at least one field, such as `question`"
    """What a person does about a row that is no task."""

    @abstractmethod
    def rows(self) -> Iterator[tuple[int, Any]]:
        """Number and fields of every row, one after the other, never all in memory; read anew by
        each call. A field ``task_id`` is the row's id, all others are what the agent is given.

        Raises:
            UserError: it cannot be read; the message says what to change.
            RowError: one row cannot.
        """


class TaskSourceConfig(BaseModel, ABC):
    """The YAML of one kind of task source.

    One that stands beside this file has a field `kind: Literal["…"]`; one in any other package
    needs none, it is named by its path: `kind: my_package.my_module.MyTasks`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of a path that stands for this kind where nothing else is said."""

    @abstractmethod
    def open(self, folder: Path) -> TaskSource:
        """The source; relative paths are below `folder`, where the YAML stands."""
