"""Batches that wait, without a run, for what is down: in the state database.

Belongs here: marking them, and when one is started again. Does not belong here: waiting while a
batch runs (`parking.py`), or starting its run (`components`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, select, update

from agent_pipelines.state.engine import read, write
from agent_pipelines.state.leases import Fence, unfenced
from agent_pipelines.state.tables import batches

#: Until a batch is started again, though nobody knows whether what was down is back; each time
#: that it has answered nothing doubles it, up to the longest.
_FIRST, _LONGEST = timedelta(minutes=5), timedelta(hours=1)

#: The share of that time after which it may be started because what was down answers again: a
#: server that answers may not be well yet.
_SOONEST = 0.2


@dataclass(frozen=True)
class WaitingBatch:
    """A batch in state `waiting`."""

    batch_id: str
    waits_for: str
    reason: str
    waits: int
    """How often in a row, without an answer in between."""
    resume_from: datetime
    """From then on it is started when what was down answers."""
    resume_at: datetime
    """Then it is started anyway, to see."""
    resumption: Mapping[str, Any]


def back_off(waits: int) -> timedelta:
    """Until a batch that has waited so often in a row is started again."""
    return min(_LONGEST, _FIRST * 2.0 ** min(waits - 1, 16))


def is_due(batch: WaitingBatch, answers: Callable[[str], bool], now: datetime) -> bool:
    """Whether to start it now. ``answers`` takes a while: it is asked only where that decides."""
    if now >= batch.resume_at:
        return True
    return now >= batch.resume_from and answers(batch.waits_for)


def remember(engine: Engine, batch_id: str, resumption: Mapping[str, Any]) -> None:
    """Keep how a batch is started again, for whoever finds it waiting."""
    with write(engine) as connection:
        connection.execute(
            update(batches)
            .where(batches.c.batch_id == batch_id)
            .values(resumption=dict(resumption))
        )


def wait(
    engine: Engine,
    batch_id: str,
    what: str,
    reason: str,
    *,
    answered: bool = False,
    fence: Fence = unfenced,
) -> datetime:
    """Mark a batch as waiting for ``what``; returns when it is started again at the latest.

    ``answered``: it has answered something since it last began.
    """
    now = datetime.now(UTC)
    with write(engine) as connection:
        fence(connection)
        before = connection.scalar(select(batches.c.waits).where(batches.c.batch_id == batch_id))
        waits = 1 if answered else (before or 0) + 1
        after = back_off(waits)
        connection.execute(
            update(batches)
            .where(batches.c.batch_id == batch_id, batches.c.state.in_(("running", "waiting")))
            .values(
                state="waiting",
                waits_for=what,
                wait_reason=reason,
                waits=waits,
                resume_from=now + after * _SOONEST,
                resume_at=now + after,
            )
        )
    return now + after


def waiting(engine: Engine, agent: str) -> Sequence[WaitingBatch]:
    """An agent's batches that wait.

    Raises:
        UnavailableError: the state database does not answer.
    """
    row = batches.c
    query = (
        select(
            *(row.batch_id, row.waits_for, row.wait_reason, row.waits),
            *(row.resume_from, row.resume_at, row.resumption),
        )
        .where(row.agent == agent, row.state == "waiting")
        .order_by(row.batch_id)
    )
    with read(engine) as connection:
        return [
            WaitingBatch(*found[:-1], resumption=found.resumption or {})
            for found in connection.execute(query)
        ]


def claim(engine: Engine, batch: WaitingBatch) -> bool:
    """Take it upon oneself to start a waiting batch; False where somebody has.

    Until it is open again its next start is put off: a run that fails before that is no reason to
    start the next one at once.
    """
    after = back_off(batch.waits + 1)
    now = datetime.now(UTC)
    with write(engine) as connection:
        claimed = connection.execute(
            update(batches)
            .where(
                batches.c.batch_id == batch.batch_id,
                batches.c.state == "waiting",
                batches.c.waits == batch.waits,
                batches.c.resume_at == batch.resume_at,
            )
            .values(
                resume_from=now + after * _SOONEST,
                resume_at=now + after,
            )
        )
    return claimed.rowcount == 1


def supersede(engine: Engine, batch_id: str) -> None:
    """Another batch of the same agent begins: those like it that wait are not started again."""
    row = batches.c
    begun = select(row.agent, row.partition, row.rerun_of).where(row.batch_id == batch_id)
    with write(engine) as connection:
        agent, partition, rerun_of = connection.execute(begun).one()
        connection.execute(
            update(batches)
            .where(
                row.agent == agent,
                row.partition == partition,
                row.rerun_of.is_not_distinct_from(rerun_of),
                row.state == "waiting",
            )
            .values(state="stopped")
        )
