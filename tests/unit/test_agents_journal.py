"""The journal of a batch: what is recorded is committed, in order, and not one by one."""

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import IntegrityError

from agent_pipelines.agents.journal import Journal
from agent_pipelines.state.engine import open_engine

_TASKS, _MESSAGES = 20, 15


@pytest.fixture
def engine(state_url: str) -> Engine:
    return open_engine(state_url)


@pytest.fixture
def commits(engine: Engine) -> Iterator[list[None]]:
    """Grows by one with every transaction."""
    made: list[None] = []

    def committed(_connection: object) -> None:
        made.append(None)

    event.listen(engine, "commit", committed)
    yield made
    event.remove(engine, "commit", committed)


def said(number: int) -> dict[str, object]:
    return {"role": "user", "content": str(number)}


def test_what_many_conversations_say_at_once_is_committed_together(
    engine: Engine, commits: list[None]
) -> None:
    async def converse(journal: Journal, task_id: str) -> None:
        record = journal.recorder(task_id, following=0)
        for number in range(_MESSAGES):
            await record(said(number))
            # Nothing follows from a message that is not committed.
            assert len(Journal(engine, "b").read(task_id)) == number + 1

    async def main() -> None:
        journal = Journal(engine, "b")
        async with asyncio.TaskGroup() as group:
            for number in range(_TASKS):
                group.create_task(converse(journal, f"task {number}"))

    asyncio.run(main())
    for number in range(_TASKS):
        whole = Journal(engine, "b").read(f"task {number}")
        assert whole == [said(number) for number in range(_MESSAGES)]
    assert len(commits) < _TASKS * _MESSAGES / 2


def test_a_message_that_cannot_be_written_fails_its_own_conversation_alone(engine: Engine) -> None:
    async def main() -> list[BaseException | None]:
        journal = Journal(engine, "b")
        await journal.recorder("second writer", following=0)(said(0))
        return await asyncio.gather(
            journal.recorder("second writer", following=0)(said(0)),
            *(journal.recorder(f"task {n}", following=0)(said(n)) for n in range(_TASKS)),
            return_exceptions=True,
        )

    refused, *others = asyncio.run(main())
    assert isinstance(refused, IntegrityError)
    assert others == [None] * _TASKS
    assert [Journal(engine, "b").read(f"task {n}") for n in range(_TASKS)] == [
        [said(n)] for n in range(_TASKS)
    ]
