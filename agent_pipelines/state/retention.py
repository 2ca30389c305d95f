"""What in the state database has become too old: deleted by age, and never what anything refers to.

Belongs here: which rows may go. Does not belong here: deleting them (`deletion.py`), how long they
are kept (`settings.py`), when this runs, or Dagster's own records (`components/`).

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
    and_,
    exists,
    func,
    or_,
    select,
    tuple_,
)

from agent_pipelines.settings import Retention
from agent_pipelines.state.deletion import delete_where
from agent_pipelines.state.engine import read
from agent_pipelines.state.tables import (
    answers,
    batches,
    leases,
    messages,
    signals,
    snapshots,
    tasks,
    tombstones,
)


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
    kept = before(keep.answers_days)
    without_journals, ended = _ended(journals, kept, now), _ended(kept, kept, now)
    return {
        "messages": delete_where(engine, messages, messages.c.batch_id.in_(without_journals)),
        "answers": delete_where(engine, answers, answers.c.batch_id.in_(ended)),
        "tasks": delete_where(engine, tasks, tasks.c.batch_id.in_(ended)),
        "batches": delete_where(engine, batches, batches.c.batch_id.in_(ended)),
        "snapshots": delete_where(engine, snapshots, _forgotten(before(keep.snapshots_days))),
        "tombstones": _expire_tombstones(engine, before(keep.tombstones_days)),
        "signals": delete_where(
            engine, signals, signals.c.evaluated_at < before(keep.signals_days)
        ),
    }


def _ended(before: datetime, kept: datetime, now: datetime) -> Select[tuple[str]]:
    """Ids of batches that ended before then.

    One that was cut off has ended only when it cannot be continued any more: nobody is at it, and
    its tasks were not all staged, or its index has a newer snapshot, with which the same work is
    another batch. Without an index it could be for ever: it ends, its journal not before the rest
    of it, once nothing has come of it since ``kept``. One of the API has ended with its day.
    """
    row, newer = batches.c, snapshots.c
    superseded = exists().where(newer.index_name == row.index_name, newer.sequence > row.sequence)
    # The lease of an agent, or of its part: `agent triage 2-of-4`.
    lease = func.trim("agent " + row.agent + " " + row.partition)
    held = exists().where(leases.c.name == lease, leases.c.expires_at > now)
    begun = exists().where(messages.c.batch_id == row.batch_id, messages.c.recorded_at >= kept)
    given = exists().where(answers.c.batch_id == row.batch_id, answers.c.finished_at >= kept)
    left = and_(row.index_name.is_(None), row.started_at < kept, ~begun, ~given)
    lost = or_(superseded, row.state == "opening", left)
    return select(row.batch_id).where(
        func.coalesce(row.finished_at, row.started_at) < before,
        or_(row.state == "finished", row.tenant.is_not(None), and_(lost, ~held)),
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
        delete_where(
            engine,
            tombstones,
            and_(row.index_name == index, row.retired_at < min(before, began.get(index, before))),
        )
        for index in indexes
    )
