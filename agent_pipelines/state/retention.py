"""What in the state database has become too old: deleted by age, and never what anything refers to.

Belongs here: which rows may go, in transactions that keep nobody waiting. Does not belong here: how
long they are kept (`settings.py`), when this runs, or Dagster's own records (`components/`).

Not here because they do not grow with time: the ledger and `source_changes` (as large as the
source), `listings`, `leases` and `generations` (a row per index and spec), `tool_calls` and
`tool_breakers` (some rows per tool). SQLite's file is not compacted: what is deleted is written
over by what comes, and a compaction would stop every writer and need the space once more.
"""

from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Engine,
    Select,
    Table,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    tuple_,
)

from agent_pipelines.settings import Retention
from agent_pipelines.state.engine import read, write
from agent_pipelines.state.tables import (
    answers,
    batches,
    leases,
    messages,
    signals,
    snapshots,
    tombstones,
)

#: Rows of one transaction.
_SLICE = 1_000


def expire(engine: Engine, keep: Retention, *, now: datetime) -> dict[str, int]:
    """Delete what is older than `keep` allows. Interrupted, the next time goes on.

    Returns:
        Rows deleted, by table.

    Raises:
        UnavailableError: the state database does not answer.
    """

    def before(days: float) -> datetime:
        return now - timedelta(days=days)

    # A batch's own row goes last: by it everything else of the batch is found.
    journals = max(before(keep.journals_days), before(keep.answers_days))
    return {
        "messages": _delete(engine, messages, messages.c.batch_id.in_(_ended(journals, now))),
        "answers": _delete(
            engine, answers, answers.c.batch_id.in_(_ended(before(keep.answers_days), now))
        ),
        "batches": _delete(
            engine, batches, batches.c.batch_id.in_(_ended(before(keep.answers_days), now))
        ),
        "snapshots": _delete(engine, snapshots, _forgotten(before(keep.snapshots_days))),
        "tombstones": _expire_tombstones(engine, before(keep.tombstones_days)),
        "signals": _delete(engine, signals, signals.c.evaluated_at < before(keep.signals_days)),
    }


def _ended(before: datetime, now: datetime) -> Select[tuple[str]]:
    """Ids of batches that ended before then.

    One that was cut off has ended only when it cannot be continued any more: nobody is at it, and
    its index has a newer snapshot, with which the same work is another batch.
    """
    row, newer = batches.c, snapshots.c
    superseded = exists().where(newer.index_name == row.index_name, newer.sequence > row.sequence)
    held = exists().where(leases.c.name == "agent " + row.agent, leases.c.expires_at > now)
    return select(row.batch_id).where(
        func.coalesce(row.finished_at, row.started_at) < before,
        or_(row.state == "finished", and_(superseded, ~held)),
    )


def _forgotten(before: datetime) -> ColumnElement[bool]:
    """Snapshots that are not the newest of their index, and that no batch or answer names."""
    row, newer = snapshots.c, snapshots.alias().c
    this = tuple_(row.index_name, row.sequence)
    return and_(
        row.committed_at < before,
        exists().where(newer.index_name == row.index_name, newer.sequence > row.sequence),
        *(
            this.not_in(
                select(table.c.index_name, table.c.sequence).where(
                    table.c.index_name.is_not(None), table.c.sequence.is_not(None)
                )
            )
            for table in (batches, answers)
        ),
    )


def _expire_tombstones(engine: Engine, before: datetime) -> int:
    """Those that no answer can cite: its chunks were all there when its batch began."""
    with read(engine) as connection:
        indexes = connection.scalars(select(tombstones.c.index_name).distinct()).all()
        began = dict(
            connection.execute(
                select(batches.c.index_name, func.min(batches.c.started_at))
                .where(batches.c.index_name.is_not(None))
                .group_by(batches.c.index_name)
            ).all()
        )
    row = tombstones.c
    return sum(
        _delete(
            engine,
            tombstones,
            and_(row.index_name == index, row.retired_at < min(before, began.get(index, before))),
        )
        for index in indexes
    )


def _delete(engine: Engine, table: Table, condition: ColumnElement[bool]) -> int:
    key = list(table.primary_key)
    some = select(*key).where(condition).limit(_SLICE)
    deleted = 0
    while True:
        with write(engine) as connection:
            count = connection.execute(delete(table).where(tuple_(*key).in_(some))).rowcount
        deleted += count
        if count < _SLICE:
            return deleted
