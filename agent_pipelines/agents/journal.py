"""The journal: every finished message of every conversation of a batch, in order.

Belongs here: appending to and reading from the `messages` table. Does not belong here: what a
message means (`conversation.py`).
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, insert, select

from agent_pipelines.agents.conversation import Record
from agent_pipelines.agents.model import Message
from agent_pipelines.state.engine import read, write
from agent_pipelines.state.leases import Fence, unfenced
from agent_pipelines.state.tables import messages

_Row = dict[str, Any]
_Waiting = tuple[_Row, "asyncio.Future[None]"]


class Journal:
    """The journal of one batch. One event loop's.

    A transaction takes as long as several conversations' next messages take to come: they are
    committed together, which on a busy batch is most of what the journal would cost.
    """

    def __init__(self, engine: Engine, batch_id: str, *, fence: Fence = unfenced) -> None:
        self._engine = engine
        self._batch_id = batch_id
        self._fence = fence
        self._blank: set[str] = set()
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None

    def look(self, task_ids: Sequence[str]) -> None:
        """See which of these conversations have not begun: one question for all of them."""
        query = select(messages.c.task_id).where(
            messages.c.batch_id == self._batch_id, messages.c.task_id.in_(task_ids)
        )
        with read(self._engine) as connection:
            begun = connection.scalars(query.distinct()).all()
        self._blank |= {*task_ids} - {*begun}

    def is_blank(self, task_id: str) -> bool:
        """Whether a conversation is known not to have begun: there is nothing to read of it."""
        return task_id in self._blank

    def read(self, task_id: str) -> Sequence[Message]:
        """The messages of one conversation so far."""
        query = (
            select(messages.c.message)
            .where(messages.c.batch_id == self._batch_id, messages.c.task_id == task_id)
            .order_by(messages.c.ordinal)
        )
        with read(self._engine) as connection:
            return list(connection.execute(query).scalars())

    def recorder(self, task_id: str, *, following: int) -> Record:
        """Appends to one conversation that has ``following`` messages already."""
        ordinal = following

        async def record(message: Message) -> None:
            nonlocal ordinal
            row = {
                "batch_id": self._batch_id,
                "task_id": task_id,
                "ordinal": ordinal,
                "message": message,
                "recorded_at": datetime.now(UTC),
            }
            self._blank.discard(task_id)
            # The primary key refuses a second writer of the same conversation.
            await self._append(row)
            ordinal += 1

        return record

    async def _append(self, row: _Row) -> None:
        """Returns once the row is committed, together with those that came in the meantime."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((row, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await written

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                await self._settle(group)
            finally:
                for _, written in group:
                    written.cancel()  # those that nobody was told of: this task was cancelled

    async def _settle(self, group: Sequence[_Waiting]) -> None:
        try:
            await self._commit([row for row, _ in group])
        except Exception as error:
            if len(group) == 1:
                _tell(group[0][1], error)
                return
            # So that one row that cannot be written costs no other conversation its own.
            for one in group:
                await self._settle([one])
        else:
            for _, written in group:
                _tell(written)

    async def _commit(self, rows: Sequence[_Row]) -> None:
        def commit() -> None:
            with write(self._engine) as connection:
                self._fence(connection)
                connection.execute(insert(messages), rows)

        await asyncio.to_thread(commit)


def _tell(written: "asyncio.Future[None]", error: Exception | None = None) -> None:
    if written.done():  # nobody waits for it any more: the conversation was cancelled
        return
    if error is None:
        written.set_result(None)
    else:
        written.set_exception(error)
