"""`janitor`: what is still in the cluster of runs that have ended.

Belongs here: which Jobs may go, and deleting them, with their pods and so those pods' claims. Does
not belong here: launching runs (Dagster does), or old records (`components/retention.py`).

Dagster gives a run up that waited too long for its pod, and leaves the pod waiting: when a GPU is
free at last, that pod takes it for nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from agent_pipelines.errors import UnavailableError, UserError

#: What Dagster's run launcher writes on each Job.
_RUN = "dagster/run-id"

_SECONDS = 30


@dataclass(frozen=True)
class Leftover:
    """A Job that nobody needs any more."""

    job: str
    run_id: str
    reason: str


def sweep(
    home: Path, namespace: str, *, ended_for: timedelta, dry_run: bool = False
) -> list[Leftover]:
    """Delete the Jobs of runs that ended at least so long ago; those that went, or would go.

    A run that the instance does not know proves nothing, as it may be the wrong instance or one
    restored from yesterday: its Job goes only once it has ended by itself.

    Raises:
        UserError: the cluster or the instance cannot be asked, or does not allow it.
    """
    from kubernetes import client

    with _asked(namespace), dg.DagsterInstance.from_config(str(home)) as instance:
        api = client.BatchV1Api(_cluster())
        before = datetime.now(UTC) - ended_for
        listed = api.list_namespaced_job(namespace, label_selector=_RUN, _request_timeout=_SECONDS)
        found = []
        for job in listed.items:
            run_id = job.metadata.labels[_RUN]
            reason = _why(instance.get_run_record_by_id(run_id), job, before)
            if reason is None:
                continue
            found.append(Leftover(job.metadata.name, run_id, reason))
            if not dry_run:
                _delete(api, job)
        return found


def _why(record: dg.RunRecord | None, job: Any, before: datetime) -> str | None:
    """Why the Job may go; None: it may not."""
    if record is None:
        ended = next(
            (
                condition.last_transition_time
                for condition in job.status.conditions or ()
                if condition.type in ("Complete", "Failed") and condition.status == "True"
            ),
            None,
        )
        return "ended, and its run is not on record" if ended and ended < before else None
    status = record.dagster_run.status
    if not record.dagster_run.is_finished or record.end_time is None:
        return None
    if datetime.fromtimestamp(record.end_time, UTC) >= before:
        return None
    return f"its run ended: {status.value}"


def _delete(api: Any, job: Any) -> None:
    from kubernetes.client import V1DeleteOptions, V1Preconditions
    from kubernetes.client.exceptions import ApiException

    options = V1DeleteOptions(
        # With its pods; and only the one that was looked at.
        propagation_policy="Background",
        preconditions=V1Preconditions(uid=job.metadata.uid),
    )
    try:
        api.delete_namespaced_job(
            job.metadata.name, job.metadata.namespace, body=options, _request_timeout=_SECONDS
        )
    except ApiException as error:
        if error.status not in (404, 409):  # somebody else was quicker
            raise


def _cluster() -> Any:
    """A client of the cluster of KUBECONFIG, else of the one that this pod runs in.

    Never of ~/.kube/config: what is deleted is not to be in whichever cluster somebody used last.
    """
    from kubernetes import client

    from agent_pipelines.toolservers.kubernetes.api import configured

    return client.ApiClient(
        configured(
            os.environ.get("KUBECONFIG") or None,
            otherwise="KUBECONFIG is not set, and this is no pod",
            remedy="set KUBECONFIG, or run this in a pod that has a token of its service account",
        )
    )


@contextmanager
def _asked(namespace: str) -> Iterator[None]:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise UserError(
            f"the API server refuses, in namespace {namespace!r}: {error.status} {error.reason}",
            remedy="give the service account the rights to list and delete jobs there, as "
            "deploy/chart/templates/accounts.yaml does",
        ) from error
    except HTTPError as error:
        raise UnavailableError(
            f"the API server does not answer: {error}", remedy="run this again when it does"
        ) from error
