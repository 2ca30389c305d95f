"""What `agent-pipelines janitor` removes from a real cluster, with the rights of the chart.

Dagster's instance and its runs are real; that nobody launched these runs makes no difference to it.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from agent_pipelines.commands.janitor import sweep
from agent_pipelines.errors import UserError
from tests.cluster import helm
from tests.cluster.control_plane import ControlPlane
from tests.processes import until

_NAMESPACE = "janitor"
_LONG_AGO, _JUST_NOW = timedelta(0), timedelta(minutes=30)

_GPU = """
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: gpu}
spec:
  spec:
    devices:
      requests: [{name: gpu, exactly: {deviceClassName: gpu.nvidia.com}}]
"""


@pytest.fixture(scope="module", autouse=True)
def account(control_plane: ControlPlane) -> Iterator[None]:
    """The janitor's, and nobody else's."""
    control_plane.make_namespace(_NAMESPACE)
    rights = [
        found
        for found in helm.template(namespace=_NAMESPACE)
        if found["kind"] in ("ServiceAccount", "Role", "RoleBinding")
    ]
    control_plane.kubectl("apply", "-n", _NAMESPACE, "-f", "-", text=yaml.safe_dump_all(rights))
    control_plane.kubectl("apply", "-n", _NAMESPACE, "-f", "-", text=_GPU)
    token = control_plane.token(_NAMESPACE, f"{helm.RELEASE}-janitor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(control_plane.write_kubeconfig("janitor", token)))
        yield
    # A pod that waits would take the first device that a later test makes.
    everything = ("jobs,pods", "--all", "--force", "--grace-period=0")
    control_plane.kubectl("delete", *everything, "-n", _NAMESPACE)
    until(lambda: not _names(control_plane, _CLAIMS), 60, "nobody waits for a device")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A DAGSTER_HOME."""
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return tmp_path


def _run(home: Path, *, ends: bool) -> str:
    """The id of a run on record."""

    @dg.job
    def work() -> None: ...

    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = instance.create_run_for_job(work)
        if ends:
            instance.report_run_failed(run)
        return run.run_id


def _job(control_plane: ControlPlane, name: str, run_id: str, **more: Any) -> None:
    """A Job as Dagster's run launcher makes them, whose pod waits for a GPU that nobody has."""
    container = {"name": "dagster", "image": "none", "resources": {"claims": [{"name": "gpu"}]}}
    pod = {
        "restartPolicy": "Never",
        "containers": [container],
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
    }
    control_plane.ask(
        "POST",
        f"/apis/batch/v1/namespaces/{_NAMESPACE}/jobs",
        {
            "metadata": {"name": name, "labels": {"dagster/run-id": run_id}},
            "spec": {"backoffLimit": 0, "template": {"spec": pod}, **more},
        },
    )


def _names(control_plane: ControlPlane, path: str) -> set[str]:
    items = control_plane.ask("GET", path.format(_NAMESPACE))["items"]
    return {str(item["metadata"]["name"]) for item in items}


_JOBS = "/apis/batch/v1/namespaces/{}/jobs"
_PODS = "/api/v1/namespaces/{}/pods"
_CLAIMS = "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims"


def test_a_job_goes_with_its_pod_and_claim_once_its_run_has_ended(
    control_plane: ControlPlane, home: Path
) -> None:
    _job(control_plane, "ended", _run(home, ends=True))
    _job(control_plane, "goes-on", _run(home, ends=False))
    until(lambda: len(_names(control_plane, _CLAIMS)) == 2, 60, "each pod has its claim")
    assert sweep(home, _NAMESPACE, ended_for=_JUST_NOW) == []
    (found,) = sweep(home, _NAMESPACE, ended_for=_LONG_AGO, dry_run=True)
    assert (found.job, found.reason) == ("ended", "its run ended: FAILURE")
    assert _names(control_plane, _JOBS) == {"ended", "goes-on"}
    assert sweep(home, _NAMESPACE, ended_for=_LONG_AGO) == [found]
    until(lambda: _names(control_plane, _JOBS) == {"goes-on"}, 60, "the Job is gone")
    until(lambda: len(_names(control_plane, _PODS)) == 1, 60, "its pod is gone")
    until(lambda: len(_names(control_plane, _CLAIMS)) == 1, 60, "its claim is gone")
    control_plane.kubectl("delete", "jobs", "--all", "-n", _NAMESPACE)


def test_a_run_that_is_not_on_record_proves_nothing(
    control_plane: ControlPlane, home: Path
) -> None:
    # As with another instance, or one that was restored from yesterday.
    _job(control_plane, "at-work", "00000000-0000-0000-0000-000000000001")
    _job(control_plane, "over", "00000000-0000-0000-0000-000000000002", activeDeadlineSeconds=1)

    def over() -> bool:
        job: Mapping[str, Any] = control_plane.ask("GET", f"{_JOBS.format(_NAMESPACE)}/over")
        return any(found["type"] == "Failed" for found in job["status"].get("conditions", ()))

    until(over, 60, "its deadline has passed")
    (found,) = sweep(home, _NAMESPACE, ended_for=_LONG_AGO)
    assert (found.job, found.reason) == ("over", "ended, and its run is not on record")
    until(lambda: _names(control_plane, _JOBS) == {"at-work"}, 60, "the Job is gone")


def test_what_it_may_not_do_is_one_message(home: Path) -> None:
    with pytest.raises(UserError, match="the API server refuses, in namespace 'kube-system': 403"):
        sweep(home, "kube-system", ended_for=_LONG_AGO)
