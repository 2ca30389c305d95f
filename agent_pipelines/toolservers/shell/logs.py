"""Logs as one JSON document a line, on standard error.

Belongs here: their form, and that no value of a caller's gets into them. Does not belong here:
what is worth a line.
"""

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

#: What every record has; anything else was given with `extra`.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonLines(logging.Formatter):
    """One line a record. Of an exception its type and its way, not what it says.

    A database's or a parser's exception quotes what it could not take: rows and arguments.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _USUAL)
        if record.exc_info and record.exc_info[1]:
            line["exceptions"] = [_way(error) for error in _chain(record.exc_info[1])]
        return json.dumps(line, default=str, ensure_ascii=False)


def to_stderr() -> None:
    """Log everything of this process as JSON: warnings, and what the shell has to say."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    # In place of the handlers that the SDK has put there for a terminal.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for room in ("toolservers", "api"):
        logging.getLogger(f"agent_pipelines.{room}").setLevel(logging.INFO)


def _chain(error: BaseException | None) -> list[BaseException]:
    """The exception and what led to it, the last first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _way(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
