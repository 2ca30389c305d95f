"""Runs: one that hangs counts as running for ever, and its index's sensor asks for no other."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from agent_pipelines.health.machine import Machinery, ago, in_time, where_expected
from agent_pipelines.health.orchestration import Run
from agent_pipelines.health.signal import Reading, Signal

#: A run that works says so at least this often; the longest silence of one that does is a listing.
SILENT = timedelta(minutes=30)

#: A run may wait as long as others are at work. Where none is, it should have been started.
QUEUED = timedelta(minutes=10)


def judge(runs: Sequence[Run], now: datetime, watched: timedelta) -> Reading:
    """Judge the runs that have not ended, having looked for so long without a gap."""
    at_work = any(run.state == "running" for run in runs)
    stuck = [(run, how) for run in runs if (how := _stuck(run, now, at_work=at_work))]
    return in_time(
        [
            {
                "run": run.id,
                "job": run.job,
                "why": why,
                "created": ago(run.created, now),
                "last event": ago(run.last_event, now),
            }
            for run, (why, _) in stuck
        ],
        watched=watched,
        patience=min((patience for _, (_, patience) in stuck), default=timedelta(0)),
        fine=f"{len(runs)} runs in progress",
        said=f"{len(stuck)} of {len(runs)} runs in progress get nowhere",
        expected=f"an event of each within {SILENT.total_seconds() / 60:.0f} min, and none queued "
        f"for {QUEUED.total_seconds() / 60:.0f} min while no other is at work",
    )


def _stuck(run: Run, now: datetime, *, at_work: bool) -> tuple[str, timedelta] | None:
    """Why a run gets nowhere, and for how long one must have been looking to know; or None."""
    if run.attended is not None:
        # It reports to the terminal that it was started from, and not to its log.
        return None if run.attended else ("the process that ran it is gone", timedelta(0))
    if run.state == "queued":
        long = now - run.created > QUEUED and not at_work
        return ("queued, and nothing else is at work", QUEUED) if long else None
    return ("silent", SILENT) if now - run.last_event > SILENT else None


def _evaluate(view: Machinery) -> Reading:
    # A run whose pod does not run cannot say anything: `runs_scheduled` speaks of it.
    pods = {one.run for one in view.waiting}
    return judge([run for run in view.runs if run.id not in pods], view.now, view.watched)


SIGNAL = Signal(
    name="runs_progress",
    statement="every run in progress has shown progress lately, or waits for one that does",
    severity="page",
    depth="tick",
    guards="machinery",
    repair="person",
    runbook="A run hangs, was killed without Dagster noticing, or waits in the queue though "
    "nothing runs. While it counts as running its index is not synced. Look at its last events in "
    "Dagster's UI, and terminate it there (with `force` where its process is gone); the index's "
    "sensor asks for a new one. For a queue that does not move see `daemon_alive`.",
    evaluate=where_expected(_evaluate),
)
