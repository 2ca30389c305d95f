"""The trace page of a batch that has ended: linked in the UI, kept as long as the batch is.

Belongs here: the folder of pages. Does not belong here: the page itself (`agents/trace_page.py`).
"""

from pathlib import Path

import dagster as dg
from sqlalchemy import Engine, select

from agent_pipelines.errors import UserError
from agent_pipelines.settings import Settings
from agent_pipelines.state.tables import batches

#: Answers up to which a page is written unasked.
_MOST = 20_000


def keep(engine: Engine, batch_id: str) -> dg.PathMetadataValue | dg.TextMetadataValue:
    """Write the page of a batch, and remove those of batches that are on record no more.

    Returns:
        Where it is; or why it could not be written, which is no reason to fail a batch.
    """
    # Imported here: definitions load without a model's client.
    from agent_pipelines.agents.answers import outcomes
    from agent_pipelines.agents.trace_page import write_page

    folder = Settings().state_dir / "traces"
    file = folder / f"{batch_id}.html"
    if outcomes(engine, batch_id).total() > _MOST:
        return dg.TextMetadataValue(f"`agent-pipelines trace {batch_id}` writes it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_page(engine, batch_id, file)
        _remove_others(engine, folder)
    except (UserError, OSError) as error:
        return dg.TextMetadataValue(f"`agent-pipelines trace {batch_id}` writes it; here: {error}")
    return dg.PathMetadataValue(file)


def _remove_others(engine: Engine, folder: Path) -> None:
    pages = {page.stem: page for page in folder.glob("*.html")}
    query = select(batches.c.batch_id).where(batches.c.batch_id.in_(pages))
    with engine.connect() as connection:
        known = set(connection.execute(query).scalars())
    for batch_id, page in pages.items():
        if batch_id not in known:
            page.unlink(missing_ok=True)
