"""Dagster's launcher of pods, which takes a cluster that does not answer for no verdict.

Belongs here: whether the pod of a run still works. Does not belong here: what a pod is made of
(Dagster's launcher, and the run's tags), or when its run is started again (Dagster's daemon).

In dagster.yaml, with the configuration of Dagster's own:

    run_launcher:
      module: agent_pipelines.components.run_launcher
      class: PodRunLauncher
      config: {…}
"""

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster_k8s import K8sRunLauncher
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError
from dagster_k8s.job import get_job_name_from_run_id
from urllib3.exceptions import HTTPError

#: What Dagster's client raises where the API server does not say how a Job is.
_UNTOLD = (HTTPError, DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError)


class PodRunLauncher(K8sRunLauncher):
    """As Dagster's: a Job per run."""

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the run's pod works, as far as the cluster tells.

        Dagster ends a run of which that is unknown, and starts it again, beside the pod that is
        still at it: after a moment without an API server every run there is.
        """
        result: CheckRunHealthResult = super().check_run_worker_health(run)
        if result.status is not WorkerStatus.UNKNOWN:
            return result
        attempt = self._get_resume_attempt_number(run)
        job: str = get_job_name_from_run_id(run.run_id, attempt)  # type: ignore[no-untyped-call]
        namespace = self.get_container_context_for_run(run).namespace or self.job_namespace
        try:
            found = self._api_client.get_job_status(job, namespace, wait_time_between_attempts=0)
        except _UNTOLD as error:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"the cluster does not say: {error}")
        # None: it is known, and there is no such Job.
        return result if found is None else CheckRunHealthResult(WorkerStatus.RUNNING)
