"""The cluster that the run launcher starts runs in: what keeps their pods from running.

Belongs here: the pods of runs, by the launcher's own connection. Does not belong here: what a pod's
status means (`toolservers/kubernetes/pods.py`), or how long it may be so (`health/machinery/`).
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from agent_pipelines.health.orchestration import Waiting

if TYPE_CHECKING:
    from dagster_k8s import K8sRunLauncher

    from agent_pipelines.toolservers.kubernetes.api import Api

#: The label of every pod that belongs to a run, be it the run's own or one of a step.
_RUN = "dagster/run-id"

#: Runs that are asked for at once: their ids are part of the address.
_AT_ONCE = 50


def launcher_of(instance: dg.DagsterInstance) -> "K8sRunLauncher | None":
    """What makes a pod of every run; None where runs are processes of this machine.

    Its construction reads where the cluster is, and raises Kubernetes' own error where that is
    not to be found.
    """
    from dagster._core.launcher import DefaultRunLauncher

    launcher = instance.run_launcher
    if isinstance(launcher, DefaultRunLauncher):
        return None
    # Two seconds, and only for whoever has a cluster.
    from dagster_k8s import K8sRunLauncher

    return launcher if isinstance(launcher, K8sRunLauncher) else None


def waiting(launcher: "K8sRunLauncher", runs: Sequence[dg.DagsterRun]) -> list[Waiting]:
    """Those of these runs that have a pod that cannot run, or cannot get one; each once.

    Raises:
        UnavailableError: the API server does not answer.
        AnswerError: it refuses; nearly always a right that is missing.
    """
    from kubernetes import client

    from agent_pipelines.toolservers.kubernetes.api import Api

    by_namespace: dict[str, list[dg.DagsterRun]] = {}
    for run in runs:
        namespace = launcher.get_container_context_for_run(run).namespace
        by_namespace.setdefault(namespace or launcher.job_namespace, []).append(run)
    # What the launcher has read when it was constructed.
    api = Api(client.ApiClient(client.Configuration.get_default_copy()))
    try:
        return [
            one
            for namespace, inside in by_namespace.items()
            for first in range(0, len(inside), _AT_ONCE)
            for one in _waiting(
                api, f"/api/v1/namespaces/{namespace}", inside[first : first + _AT_ONCE]
            )
        ]
    finally:
        api.close()


def _waiting(api: "Api", path: str, runs: Sequence[dg.DagsterRun]) -> Iterator[Waiting]:
    ids = ",".join(run.run_id for run in runs)
    found = api.get(f"{path}/pods", {"labelSelector": f"{_RUN} in ({ids})"})
    pods: dict[str, list[dict[str, Any]]] = {}
    for pod in found["items"]:
        pods.setdefault(pod["metadata"]["labels"][_RUN], []).append(pod)
    for run in runs:
        stopped = [_of_pod(api, path, run, pod) for pod in pods.get(run.run_id, [])]
        if not stopped and run.status is dg.DagsterRunStatus.STARTING:
            stopped = [_of_job(api, path, run)]
        yield from [one for one in stopped if one][:1]


def _of_pod(api: "Api", path: str, run: dg.DagsterRun, pod: Mapping[str, Any]) -> Waiting | None:
    """None where it runs, has ended, or is being started and nothing is wrong."""
    from agent_pipelines.toolservers.kubernetes.pods import assess

    if pod["status"].get("phase") != "Pending":
        return None
    state = assess(pod, datetime.now(UTC))
    if state.node is None and not pod["status"].get("conditions"):
        # The scheduler does not look at it before it has its claims.
        return _reported(api, path, run, "Pod", state.name)
    if not state.problems or state.created_at is None:
        return None
    problem = state.problems[0]
    claims = [
        claim.get("resourceClaimTemplateName") or claim.get("resourceClaimName")
        for claim in pod["spec"].get("resourceClaims") or []
    ]
    wanted = f"; it claims {', '.join(claims)}" if claims else ""
    return Waiting(
        run.run_id,
        run.job_name,
        pod=state.name,
        since=state.created_at,
        reason=problem.reason,
        message=problem.message + wanted,
    )


def _of_job(api: "Api", path: str, run: dg.DagsterRun) -> Waiting | None:
    """None where nothing is known to keep its job from making a pod."""
    from dagster_k8s.job import get_job_name_from_run_id

    job: str = get_job_name_from_run_id(run.run_id)  # type: ignore[no-untyped-call]
    return _reported(api, path, run, "Job", job)


def _reported(api: "Api", path: str, run: dg.DagsterRun, kind: str, name: str) -> Waiting | None:
    """What an object's events say last, where nothing else does: of a pod whose claims cannot be
    made, and of a job that a policy or quota allows no pod.
    """
    from agent_pipelines.toolservers.kubernetes.events import read

    about = f"involvedObject.kind={kind},involvedObject.name={name},type=Warning"
    events = [read(event) for event in api.get(f"{path}/events", {"fieldSelector": about})["items"]]
    seen = [(event.last_seen, event) for event in events if event.last_seen]
    if not seen:
        return None
    _, last = max(seen, key=lambda pair: pair[0])
    since = min(event.first_seen or at for at, event in seen)
    pod = name if kind == "Pod" else None
    return Waiting(run.run_id, run.job_name, pod, since, last.reason, last.message)
