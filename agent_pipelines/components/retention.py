"""The daily job that keeps our records and Dagster's bounded.

Belongs here: the job and its schedule, defined once for the whole code location. Does not belong
here: what may go (`state/retention.py`, `dagster_records.py`), or after how long (`settings.py`).
"""

from datetime import UTC, datetime

import dagster as dg

from agent_pipelines.errors import UserError
from agent_pipelines.settings import Retention
from resources.state import StateResource

NAME = "retention"

#: At night in UTC, and not with everything else that runs on the hour.
_DAILY = "17 3 * * *"


def build() -> dg.Definitions:
    """The job `retention` and its schedule."""

    @dg.op(name="expire_state", description="Old batches, snapshots, tombstones and readings.")
    def expire_state(context: dg.OpExecutionContext, state: StateResource) -> None:
        from agent_pipelines.state.retention import expire

        try:
            deleted = expire(state.engine(), Retention(), now=datetime.now(UTC))
        except UserError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        context.add_output_metadata(deleted)

    @dg.op(name="expire_dagster_records", description="Old runs, reports of checks, and ticks.")
    def expire_dagster_records(context: dg.OpExecutionContext) -> None:
        from agent_pipelines.components.dagster_records import expire

        try:
            keep = Retention()
        except UserError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        context.add_output_metadata(expire(context.instance, keep, now=datetime.now(UTC)))

    @dg.job(
        name=NAME,
        description="Deletes records that are older than the RETENTION_… settings allow.",
    )
    def retention() -> None:
        # Neither waits for the other: one that fails leaves the other's records bounded.
        expire_state()
        expire_dagster_records()

    schedule = dg.ScheduleDefinition(
        name=f"{NAME}_schedule",
        job=retention,
        cron_schedule=_DAILY,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Once a day.",
    )
    return dg.Definitions(jobs=[retention], schedules=[schedule])
