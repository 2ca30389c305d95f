"""`answers`: the answers of an agent's last batch as a file.

Belongs here: which batch is meant. Does not belong here: formats (`agents/export/`).
"""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine

from agent_pipelines.agents.batches import Recorded, named, newest_of_all_partitions
from agent_pipelines.agents.export import export
from agent_pipelines.components.agent import AgentComponent
from agent_pipelines.errors import UserError


def write_answers(
    engine: Engine, agent: AgentComponent, output: Path, batch_id: str | None
) -> tuple[int, Sequence[Recorded]]:
    """Write the answers of one batch, or of the newest; returns how many, and of which batches.

    Raises:
        UserError: there is no such batch, or see `export`.
    """
    found = [_named(engine, agent, batch_id)] if batch_id else _newest(engine, agent)
    return export(engine, found, output), found


def _named(engine: Engine, agent: AgentComponent, batch_id: str) -> Recorded:
    found = named(engine, batch_id)
    if found is None or found.agent != agent.name:
        raise UserError(
            f"agent {agent.name} has no batch {batch_id!r} on record",
            remedy="see `agent-pipelines status`, or leave out --batch for the newest",
        )
    return found


def _newest(engine: Engine, agent: AgentComponent) -> Sequence[Recorded]:
    found = newest_of_all_partitions(engine, agent.name)
    had = {batch.partition for batch in found}
    missing = [key for key in list(agent.partitions) or [""] if key not in had]
    if missing:
        raise UserError(
            f"agent {agent.name} has no batch on record of "
            + (", ".join(key for key in missing if key) or "its tasks"),
            remedy=f"run `agent-pipelines batch {agent.name}`, or name a batch with --batch",
        )
    return found
