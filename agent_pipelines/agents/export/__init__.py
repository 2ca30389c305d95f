"""The answers of finished batches as one file: whole, or not at all. One file beside this per kind.

Belongs here: rows in = rows out, and the file that is there only once it is complete. Does not
belong here: a format.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Engine

from agent_pipelines.agents import answers
from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.batches import Recorded
from agent_pipelines.agents.tasks import Task
from agent_pipelines.errors import UserError


@dataclass(frozen=True)
class Row:
    """One task, its answer, and the batch that it is of."""

    batch: Recorded
    task: Task
    answer: Answer
    finished_at: datetime


class Writer(Protocol):
    """Writes rows to a file, one after the other."""

    def write(self, row: Row) -> None: ...

    def close(self) -> None: ...


def export(engine: Engine, batches: Sequence[Recorded], output: Path) -> int:
    """Write all rows of these batches, in the order of their source, and say how many.

    The file appears under its name when it is whole; one that was there before stays until then.

    Raises:
        UserError: its ending is of no format, it cannot be written, or a batch is not finished or
            not all there any more.
    """
    create = _writer(output)
    for batch in batches:
        if batch.state != "finished" or batch.tasks is None:
            raise UserError(
                f"batch {batch.batch_id} of agent {batch.agent} is not finished but {batch.state}",
                remedy=f"run `agent-pipelines batch {batch.agent}`, which continues it, or name "
                "another one with --batch",
            )
    with _whole(output) as part:
        writer = create(part)
        try:
            counts = {batch.batch_id: 0 for batch in batches}
            for batch in batches:
                for task, answer, finished_at in answers.rows(engine, batch.batch_id):
                    writer.write(Row(batch, task, answer, finished_at))
                    counts[batch.batch_id] += 1
        finally:
            writer.close()
        for batch in batches:
            if counts[batch.batch_id] != batch.tasks:
                raise UserError(
                    f"batch {batch.batch_id} had {batch.tasks} tasks, and {counts[batch.batch_id]} "
                    "answers are on record",
                    remedy="answers are kept for RETENTION_ANSWERS_DAYS: run the batch again",
                )
    return sum(counts.values())


def as_text(value: Any) -> str:
    """JSON that can be written as UTF-8; half a surrogate pair, which cannot, stays an escape."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def _writer(output: Path) -> Any:
    from agent_pipelines.agents.export.openai_batch import OpenAIBatchWriter
    from agent_pipelines.agents.export.parquet import ParquetWriter

    known = {".parquet": ParquetWriter, ".jsonl": OpenAIBatchWriter}
    if output.suffix not in known:
        raise UserError(
            f"--output {output} ends in none of {', '.join(known)}",
            remedy="name a file that ends in .parquet, or in .jsonl for OpenAI Batch output",
        )
    return known[output.suffix]


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """A file beside the output that takes its place at the end, or is gone."""
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(output)
    except OSError as error:
        raise UserError(
            f"--output {output} cannot be written: {error}",
            remedy="name a file in a folder that exists and can be written",
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()
