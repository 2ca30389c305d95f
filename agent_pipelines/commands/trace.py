"""`trace`: a batch as a page to read.

Belongs here: which batch is meant, and where its page goes. Does not belong here: the page
(`agents/trace_page.py`).
"""

from pathlib import Path

from rich.console import Console
from sqlalchemy import Engine

from agent_pipelines.agents.batches import named, newest
from agent_pipelines.agents.trace_page import write_page
from agent_pipelines.errors import UserError


def write(engine: Engine, console: Console, batch: str | None, output: Path | None) -> None:
    """Write the page of a batch, of an agent's last one, or of the last one there was.

    Raises:
        UserError: there is none, or its page cannot be written.
    """
    batch_id = _batch(engine, batch)
    file = output or Path(f"trace-{batch_id}.html")
    with console.status(f"reading batch {batch_id}"):
        answers = write_page(engine, batch_id, file)
    console.print(f"wrote {file.absolute()}: {answers:,} answers", highlight=False, soft_wrap=True)


def _batch(engine: Engine, batch: str | None) -> str:
    found = (named(engine, batch) if batch else None) or newest(engine, batch)
    if found is None:
        raise UserError(
            f"there is no batch or agent {batch!r} that has answers"
            if batch
            else "no agent has worked yet",
            remedy="start one with `agent-pipelines batch AGENT`",
        )
    return found.batch_id
