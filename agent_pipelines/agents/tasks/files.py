"""A file of tasks behind a path or any fsspec URL.

Belongs here: opening one, and what is said where that fails. Does not belong here: what is in it.
"""

import io
from abc import ABC
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TextIO

from pydantic import Field

from agent_pipelines.agents.tasks import RowError, TaskSource, TaskSourceConfig
from agent_pipelines.errors import UserError
from agent_pipelines.locations import check_protocols, located, public, said


class FileConfig(TaskSourceConfig, ABC):
    """The YAML of a kind of file."""

    url: str = Field(
        description="A path (relative to this YAML's folder) or any fsspec URL.",
        examples=["tasks.jsonl", "s3://bucket/questions.parquet"],
    )
    options: Mapping[str, Any] = Field(
        default={},
        repr=False,
        description="What fsspec is given besides the URL, such as `key`, `secret` and "
        "`endpoint_url` for s3.",
    )


class FileSource(TaskSource, ABC):
    """Tasks in one file, which is opened when it is read."""

    format: ClassVar[str]
    """What it is to be, for people."""

    def __init__(self, config: FileConfig, folder: Path) -> None:
        self._url = located(config.url, folder)
        self._options = config.options
        check_protocols(self._url, "tasks.url")

    def __str__(self) -> str:
        return public(self._url)

    @contextmanager
    def _bytes(self) -> Iterator[BinaryIO]:
        """The file; whatever goes wrong with it is the user's to mend, and names it."""
        import fsspec

        try:
            with fsspec.open(self._url, "rb", **self._options) as file:
                yield file
        except (UserError, RowError):
            raise
        except Exception as error:  # every fsspec backend, and every format, raises its own kinds
            raise UserError(
                f"the tasks file {self} cannot be read: {said(error, self._url)}",
                remedy=f"point `tasks` at a readable {self.format}",
            ) from error

    @contextmanager
    def _text(self, *, newline: str) -> Iterator[TextIO]:
        """The file as text; ``newline`` as of `open()`."""
        with self._bytes() as file, io.TextIOWrapper(file, "utf-8-sig", newline=newline) as text:
            yield text
