"""CSV: a header with the names of the fields, then one task per row.

Belongs here: reading it, by RFC 4180. Does not belong here: guessing at types: every value is text.
"""

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from agent_pipelines.agents.tasks import RowError, TaskSource
from agent_pipelines.agents.tasks.files import FileConfig, FileSource
from agent_pipelines.errors import UserError


class Csv(FileConfig):
    """A header and rows, separated by commas; every value is text."""

    kind: Literal["csv"]
    suffixes: ClassVar[tuple[str, ...]] = (".csv",)

    def open(self, folder: Path) -> TaskSource:
        """The source; a relative path is below `folder`."""
        return CsvSource(self, folder)


class CsvSource(FileSource):
    """The rows below the header. A row is named by the line that it begins on."""

    noun = "line"
    remedy = "give every row as many values as the header has names, and one that is not empty"
    format = "CSV file in UTF-8"

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Every row that is not an empty line."""
        # Python's own limit of 128 KiB per value is less than a document has.
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        with self._text(newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            self._check(header)
            while True:
                line = reader.line_num + 1
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    raise RowError(line, error) from error
                if not row:
                    continue
                if len(row) != len(header):
                    raise RowError(line, f"it has {len(row)} values, the header {len(header)}")
                yield line, dict(zip(header, row, strict=True))

    def _check(self, header: list[str]) -> None:
        twice = [name for name, number in Counter(header).items() if number > 1]
        if twice or "" in header:
            named = f"{twice[0]!r} twice" if twice else "an empty name"
            raise UserError(
                f"the header of the tasks file {self} has {named}",
                remedy="give every column a name of its own",
            )
