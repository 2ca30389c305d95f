"""The one place that every run passes on its way to a pod: there it gets the claim of its GPU.

Belongs here: looking up what a submitted run materializes, and what that needs. Does not belong
here: the tags (`run_claims.py`), or the queue, which is Dagster's.

A job's tags are dropped by Dagster's implicit asset job, which runs what the UI's Materialize
button, a backfill or an automation condition asks for. In dagster.yaml:

    run_coordinator:
      module: agent_pipelines.components.run_coordinator
      class: ClaimingRunCoordinator
      config: {max_concurrent_runs: 25}
"""

from collections.abc import Iterator

import dagster as dg
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.tags import MAX_RETRIES_TAG

from agent_pipelines.components import run_claims
from agent_pipelines.errors import UserError


class ClaimingRunCoordinator(QueuedRunCoordinator):
    """Dagster's queue, with the same configuration."""

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Queue the run with the tags that it needs; where there are none, fail it at once."""
        run = context.dagster_run
        if run.status is dg.DagsterRunStatus.NOT_STARTED:
            try:
                claim = run_claims.one(_claims(context))
            except UserError as error:
                # It would come to the same again.
                self._instance.add_run_tags(run.run_id, {MAX_RETRIES_TAG: "0"})
                self._instance.report_run_failed(run, str(error))
                failed = self._instance.get_run_by_id(run.run_id)
                assert failed is not None
                return failed
            if claim is not None:
                self._instance.add_run_tags(run.run_id, run_claims.tags(claim, run.tags))
        return super().submit_run(context)


def _claims(context: SubmitRunContext) -> Iterator[str]:
    """Of every asset that the run materializes, by the definitions as they are loaded now."""
    run = context.dagster_run
    assert run.remote_job_origin is not None  # Dagster has checked it
    origin = run.remote_job_origin.repository_origin
    location = context.workspace.get_code_location(origin.code_location_origin.location_name)
    for asset in location.get_repository(origin.repository_name).get_asset_node_snaps(run.job_name):
        selected = run.asset_selection is None or asset.asset_key in run.asset_selection
        if selected and asset.tags and run_claims.CLAIM_TAG in asset.tags:
            yield asset.tags[run_claims.CLAIM_TAG]
