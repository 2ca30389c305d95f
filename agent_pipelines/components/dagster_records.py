"""What Dagster itself remembers, and what of it has become too old.

Belongs here: runs, events, check evaluations, ticks and logs of an instance. Does not belong here:
our own state (`state/retention.py`), or when this runs (`retention.py`).

Dagster deletes a run and its events on request, and ticks by age. It has no way to delete what
sensors report without a run (every state of every check, for ever), and leaves a run's check
records, logs and, with SQLite, the file of its events behind: these are deleted here.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    SqlEventLogStorageTable,
)
from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, or_, select

from agent_pipelines.settings import Retention

#: Rows of one transaction.
_SLICE = 1_000

#: Events of which Dagster shows the newest per asset and partition, however old it is.
_SHOWN = ("ASSET_MATERIALIZATION", "ASSET_OBSERVATION")


def expire(instance: dg.DagsterInstance, keep: Retention, *, now: datetime) -> dict[str, int]:
    """Delete what is older than `keep` allows; never what is newest of an asset or a check.

    Returns:
        Records deleted, by kind.
    """
    reports = now - timedelta(days=keep.reports_days)
    for state in instance.all_instigator_state():
        instance.purge_ticks(state.instigator_origin_id, state.selector_id, reports.timestamp())
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)  # there is no other kind
    runs = now - timedelta(days=keep.runs_days)
    return {
        "runs": sum(1 for _ in _expired_runs(instance, storage, runs)),
        **_expire_reports(storage, reports=_naive(reports), runs=_naive(runs)),
    }


def _expired_runs(
    instance: dg.DagsterInstance, storage: SqlEventLogStorage, before: datetime
) -> Iterator[str]:
    """Delete runs that ended before then, but those that made what is there now; yields them."""
    event = SqlEventLogStorageTable.c
    with storage.index_connection() as connection:
        needed = set(connection.scalars(select(event.run_id).where(event.id.in_(_newest_events()))))
    old = dg.RunsFilter(statuses=FINISHED_STATUSES, updated_before=before)
    for run_id in instance.get_run_ids(old):
        if run_id not in needed:
            instance.compute_log_manager.delete_logs(prefix=[run_id])
            instance.delete_run(run_id)
            if isinstance(storage, SqliteEventLogStorage):
                for suffix in ("", "-wal", "-shm"):
                    Path(storage.path_for_shard(run_id) + suffix).unlink(missing_ok=True)
            yield run_id


def _expire_reports(
    storage: SqlEventLogStorage, *, reports: datetime, runs: datetime
) -> dict[str, int]:
    check, event = AssetCheckExecutionsTable.c, SqlEventLogStorageTable.c
    newest_checks = select(func.max(check.id)).group_by(
        check.asset_key, check.check_name, check.partition
    )
    checks = _delete(
        storage.index_connection,
        AssetCheckExecutionsTable,
        and_(
            or_(
                and_(check.run_id == RUNLESS_RUN_ID, check.evaluation_event_timestamp < reports),
                check.evaluation_event_timestamp < runs,
            ),
            check.id.not_in(newest_checks),
        ),
    )
    old = and_(event.run_id == RUNLESS_RUN_ID, event.timestamp < reports)
    told_by_checks = select(check.evaluation_event_storage_id).where(
        check.evaluation_event_storage_id.is_not(None)
    )
    events = _delete(
        storage.index_connection,
        SqlEventLogStorageTable,
        and_(old, event.id.not_in(_newest_events()), event.id.not_in(told_by_checks)),
    )
    if storage.is_run_sharded:
        # With SQLite they are there twice: in the index, as above, and in a file of their own.
        _delete(lambda: storage.run_connection(RUNLESS_RUN_ID), SqlEventLogStorageTable, old)
    return {"check_evaluations": checks, "events": events}


def _newest_events() -> Any:
    event = SqlEventLogStorageTable.c
    return (
        select(func.max(event.id))
        .where(event.dagster_event_type.in_(_SHOWN))
        .group_by(event.asset_key, event.partition, event.dagster_event_type)
    )


def _delete(
    connect: Callable[[], AbstractContextManager[Connection]],
    table: Table,
    condition: ColumnElement[bool],
) -> int:
    some = select(table.c.id).where(condition).limit(_SLICE)
    deleted = 0
    while True:
        with connect() as connection:
            count = connection.execute(delete(table).where(table.c.id.in_(some))).rowcount
        deleted += count
        if count < _SLICE:
            return deleted


def _naive(moment: datetime) -> datetime:
    """As Dagster writes moments into its tables: UTC, without saying so."""
    return moment.astimezone(UTC).replace(tzinfo=None)
