"""Parquet: one task per row, its columns the fields.

Belongs here: reading it a batch at a time. Does not belong here: what a value becomes in JSON
(`values.py`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from agent_pipelines.agents.tasks import RowError, TaskSource
from agent_pipelines.agents.tasks.files import FileConfig, FileSource
from agent_pipelines.agents.tasks.values import as_json

#: Rows decoded together: what reading holds in memory, beside a page of every column.
_ROWS = 1_000


class Parquet(FileConfig):
    """Rows whose columns are the task's fields."""

    kind: Literal["parquet"]
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".pq")

    def open(self, folder: Path) -> TaskSource:
        """The source; a relative path is below `folder`."""
        return ParquetSource(self, folder)


class ParquetSource(FileSource):
    """The rows of a file, by any number of row groups."""

    format = "Parquet file"

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Every row; a missing value is null."""
        from pyarrow.parquet import ParquetFile

        with self._bytes() as file, ParquetFile(file) as parquet:
            number = 0
            for batch in parquet.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    try:
                        yield number, as_json(row)
                    except ValueError as error:
                        raise RowError(number, error) from error
