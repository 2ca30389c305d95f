"""Parquet: one row per task, with all that is on record of its answer.

Belongs here: the columns. Does not belong here: Parquet as a source of tasks (`tasks/parquet.py`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_pipelines.agents.export import Row, as_text

if TYPE_CHECKING:
    import pyarrow

#: Rows of one row group: what writing holds in memory.
_ROWS = 2_000


class ParquetWriter:
    """Inputs and output, which may be anything, are JSON in a column of text."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self._schema = _schema()
        self._rows: list[dict[str, Any]] = []
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, row: Row) -> None:
        """One row, in the file once its group is full."""
        self._rows.append(_columns(row))
        if len(self._rows) == _ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left, and end the file."""
        try:
            self._flush()
        finally:
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow

        if self._rows:
            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()


def _schema() -> "pyarrow.Schema":
    from pyarrow import bool_, field, float64, int64, list_, schema, string, struct, timestamp

    citation = {
        **dict.fromkeys(("chunk_id", "document_id", "content_hash", "uri", "title"), string()),
        "sequence": int64(),
        "retrieved": bool_(),
    }
    numbers = ("turns", "tool_calls", "prompt_tokens", "completion_tokens")
    return schema(
        [
            field("task_id", string(), nullable=False),
            ("row", int64()),
            field("inputs", string(), nullable=False),
            field("outcome", string(), nullable=False),
            ("output", string()),
            ("error", string()),
            ("citations", list_(struct(list(citation.items())))),
            *((name, int64()) for name in numbers),
            ("seconds", float64()),
            ("index", string()),
            ("snapshot", int64()),
            ("false_signals", list_(string())),
            ("outcome_unknown", list_(string())),
            ("calls_done", list_(string())),
            ("finished_at", timestamp("us", tz="UTC")),
            ("model", string()),
            field("batch", string(), nullable=False),
        ]
    )


def _columns(row: Row) -> dict[str, Any]:
    answer = row.answer
    return {
        "task_id": row.task.task_id,
        "row": row.task.row,
        "inputs": as_text(row.task.inputs),
        "outcome": answer.outcome,
        "output": None if answer.output is None else as_text(answer.output),
        "error": answer.error,
        "citations": [citation.as_json() for citation in answer.citations],
        "turns": answer.turns,
        "tool_calls": answer.tool_calls,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "seconds": answer.seconds,
        "index": row.batch.index_name,
        "snapshot": answer.sequence,
        "false_signals": list(answer.false_signals),
        "outcome_unknown": [as_text(call) for call in answer.outcome_unknown],
        "calls_done": [as_text(call) for call in answer.calls_done],
        "finished_at": row.finished_at,
        "model": row.batch.model,
        "batch": row.batch.batch_id,
    }
