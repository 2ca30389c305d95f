"""The journal: every finished message of every conversation of a batch, in order.

Belongs here: appending to and reading from the `messages` table. Does not belong here: what a
message means (`loop.py`).
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Engine, insert, select

from agent_pipelines.agents.loop import Record
from agent_pipelines.agents.model import Message
from agent_pipelines.state.engine import write
from agent_pipelines.state.tables import messages


class Journal:
    """The journal of one batch."""

    def __init__(self, engine: Engine, batch_id: str) -> None:
        self._engine = engine
        self._batch_id = batch_id

    def read(self, task_id: str) -> Sequence[Message]:
        """The messages of one conversation so far."""
        query = (
            select(messages.c.message)
            .where(messages.c.batch_id == self._batch_id, messages.c.task_id == task_id)
            .order_by(messages.c.ordinal)
        )
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def recorder(self, task_id: str, *, following: int) -> Record:
        """Appends to one conversation that has ``following`` messages already."""
        ordinal = following

        async def record(message: Message) -> None:
            nonlocal ordinal
            # The primary key refuses a second writer of the same conversation.
            await asyncio.to_thread(self._append, task_id, ordinal, message)
            ordinal += 1

        return record

    def _append(self, task_id: str, ordinal: int, message: Message) -> None:
        with write(self._engine) as connection:
            connection.execute(
                insert(messages).values(
                    batch_id=self._batch_id,
                    task_id=task_id,
                    ordinal=ordinal,
                    message=message,
                    recorded_at=datetime.now(UTC),
                )
            )
