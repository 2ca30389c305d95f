"""`trace`: a batch as a page to read.

Belongs here: which batch is meant, and where its page goes. Does not belong here: the page
(`agents/trace_page.py`).
"""

from pathlib import Path

from rich.console import Console
from sqlalchemy import Engine, select

from agent_pipelines.agents.trace_page import write_page
from agent_pipelines.errors import UserError
from agent_pipelines.state.tables import batches


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


def _is_batch(engine: Engine, named: str) -> bool:
    with engine.connect() as connection:
        found = select(batches.c.batch_id).where(batches.c.batch_id == named)
        return connection.execute(found).scalar_one_or_none() is not None


def _batch(engine: Engine, named: str | None) -> str:
    latest = select(batches.c.batch_id).order_by(batches.c.started_at.desc()).limit(1)
    if named is None or not _is_batch(engine, named):
        # Single tasks, of the API's callers, are shown only where they are meant.
        latest = latest.where(batches.c.state != "interactive")
    if named is not None:
        latest = latest.where((batches.c.batch_id == named) | (batches.c.agent == named))
    with engine.connect() as connection:
        found = connection.execute(latest).scalar_one_or_none()
    if found is None:
        raise UserError(
            f"there is no batch or agent {named!r} that has answers"
            if named
            else "no agent has worked yet",
            remedy="start one with `agent-pipelines batch AGENT`",
        )
    return str(found)
