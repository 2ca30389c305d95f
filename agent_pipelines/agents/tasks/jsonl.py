"""JSON Lines: one task per line.

Belongs here: reading them, and telling whether they are OpenAI Batch requests. Does not belong
here: what such a request becomes (`openai_request.py`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from agent_pipelines.agents.tasks import RowError, TaskSource
from agent_pipelines.agents.tasks.files import FileConfig, FileSource
from agent_pipelines.agents.tasks.openai_request import fields_of, is_request


class JsonLines(FileConfig):
    """One JSON object per line. Where the first is an OpenAI Batch request, all are."""

    kind: Literal["jsonl"]
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")

    def open(self, folder: Path) -> TaskSource:
        """The source; a relative path is below `folder`."""
        return JsonLinesSource(self, folder)


class JsonLinesSource(FileSource):
    """The lines of a file. ``requests``: they are OpenAI Batch requests; None: as the first is."""

    noun = "line"
    remedy = 'write one JSON object per line, such as {"question": "…"}'
    format = "JSONL file in UTF-8"

    def __init__(self, config: FileConfig, folder: Path, *, requests: bool | None = None) -> None:
        super().__init__(config, folder)
        self._requests = requests

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Every line that is not empty."""
        requests = self._requests
        with self._text(newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line, parse_constant=_no_number)
                    if requests is None:
                        requests = is_request(row)
                    yield number, fields_of(row) if requests else row
                except ValueError as error:
                    raise RowError(number, error) from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
