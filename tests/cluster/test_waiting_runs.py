"""A run whose pod does not run says why: in `status`, in its own events, and as a signal.

Jobs are made by Dagster's own launcher; API server, scheduler and job controller are real.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.code_pointer import FileCodePointer
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin

from agent_pipelines.components import waiting_runs
from agent_pipelines.health.machinery import runs_scheduled
from agent_pipelines.health.orchestration import Waiting
from agent_pipelines.health.signal import State
from resources.orchestrator import DagsterOrchestrator
from tests.cluster.control_plane import ControlPlane
from tests.cluster.devices import DRIVER, T4, Gpu
from tests.cluster.fleet import Fleet
from tests.processes import until

_SECONDS = 30


@dg.job
def triage_batch() -> None:
    pass


@pytest.fixture
def fleet(control_plane: ControlPlane) -> Iterator[Fleet]:
    made = Fleet(control_plane, {"small": [Gpu(T4)]})
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def instance(
    control_plane: ControlPlane, fleet: Fleet, tmp_path: Path
) -> Iterator[dg.DagsterInstance]:
    """One whose runs are pods in the fleet's namespace."""
    config = {
        "service_account_name": "default",
        "job_image": "never.run/here:1",
        "instance_config_map": "dagster-instance",
        "dagster_home": "/opt/dagster",
        "load_incluster_config": False,
        "kubeconfig_file": str(control_plane.kubeconfig),
        "job_namespace": fleet.name,
    }
    launcher = {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"run_launcher": launcher}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def launched(instance: dg.DagsterInstance, k8s: Mapping[str, Any]) -> str:
    """A run that was given to the launcher with this configuration of its pod; its id."""
    origin = RepositoryPythonOrigin("python", FileCodePointer(__file__, "triage_batch"))
    run = instance.create_run_for_job(
        triage_batch,
        job_code_origin=JobPythonOrigin("triage_batch", origin),
        status=dg.DagsterRunStatus.STARTING,
        tags={"dagster-k8s/config": json.dumps(k8s)},
    )
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    return run.run_id


def waiting(instance: dg.DagsterInstance, reason: str) -> Waiting:
    """Wait until the one run that waits does so for this reason."""

    def found() -> Waiting | None:
        runs = DagsterOrchestrator(instance, ()).waiting()
        return next((one for one in runs if one.reason == reason), None)

    return until(found, _SECONDS, f"a run waits: {reason}")


def told(instance: dg.DagsterInstance, run: str) -> Sequence[str]:
    """What its events say of its pod."""
    events = (entry.dagster_event for entry in instance.all_logs(run))
    messages = (event.message or "" for event in events if event)
    return [message for message in messages if message.startswith("Waits for its pod")]


def test_a_claim_that_nothing_satisfies(instance: dg.DagsterInstance, fleet: Fleet) -> None:
    fleet.offer(_claim("huge", "200Gi"))
    run = launched(instance, _CLAIMS_A_DEVICE)
    one = waiting(instance, "Unschedulable")
    assert (one.run, one.job) == (run, "triage_batch")
    assert "cannot allocate all claims" in one.message
    assert "it claims huge" in one.message

    reading = runs_scheduled.judge([one], datetime.now(UTC))
    assert reading.state is State.TRUE, "others may hold the device; there is time"
    assert "cannot allocate all claims" in reading.observed
    late = runs_scheduled.judge([one], datetime.now(UTC) + 2 * runs_scheduled.QUEUED)
    assert (late.state, late.evidence[0]["run"]) == (State.FALSE, run)


def test_its_events_say_it_once_and_again_when_it_changes(
    instance: dg.DagsterInstance, fleet: Fleet, control_plane: ControlPlane
) -> None:
    run = launched(instance, _CLAIMS_A_DEVICE)
    cursor = None

    def tick() -> None:
        nonlocal cursor
        with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
            waiting_runs.waiting_runs(context)
            cursor = context.cursor

    # The claim's template does not exist yet.
    waiting(instance, "FailedResourceClaimCreation")
    tick()
    tick()
    (first,) = told(instance, run)
    fleet.offer(_claim("huge", "200Gi"))
    waiting(instance, "Unschedulable")
    tick()
    tick()
    assert told(instance, run)[0] == first
    (_, then) = told(instance, run)
    assert "cannot allocate all claims" in then
    # It got its device: there is nothing more to say.
    control_plane.ask("DELETE", f"/apis/batch/v1/namespaces/{fleet.name}/jobs/dagster-run-{run}")
    tick()
    assert len(told(instance, run)) == 2


def test_an_image_that_cannot_be_pulled(
    instance: dg.DagsterInstance, fleet: Fleet, control_plane: ControlPlane
) -> None:
    launched(instance, {})
    path = f"/api/v1/namespaces/{fleet.name}/pods"
    pods = until(lambda: control_plane.ask("GET", path)["items"], _SECONDS, "a pod")
    # As a kubelet writes it; on this node is none.
    refused = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    container = {"name": "dagster", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    control_plane.ask(
        "PATCH",
        f"{path}/{pods[0]['metadata']['name']}/status",
        {"status": {"containerStatuses": [container | {"state": refused}]}},
        content_type="application/merge-patch+json",
    )
    assert waiting(instance, "ImagePullBackOff").message == "no such image"


def test_a_pod_that_the_cluster_does_not_let_in(
    instance: dg.DagsterInstance, fleet: Fleet, control_plane: ControlPlane
) -> None:
    control_plane.ask(
        "POST",
        f"/api/v1/namespaces/{fleet.name}/resourcequotas",
        {"metadata": {"name": "full"}, "spec": {"hard": {"pods": "0"}}},
    )
    run = launched(instance, {})
    one = waiting(instance, "FailedCreate")
    assert (one.run, one.pod) == (run, None)
    assert "exceeded quota: full" in one.message


def test_somebody_looks_where_the_code_location_is_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not waiting_runs.build().sensors
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert [sensor.name for sensor in waiting_runs.build().sensors or ()] == [waiting_runs.NAME]


_CLAIMS_A_DEVICE = {
    "container_config": {"resources": {"claims": [{"name": "gpu"}]}},
    "pod_spec_config": {
        "resource_claims": [{"name": "gpu", "resource_claim_template_name": "huge"}]
    },
}


def _claim(name: str, memory: str) -> dict[str, Any]:
    enough = f"device.capacity['{DRIVER}'].memory.compareTo(quantity('{memory}')) >= 0"
    exactly = {"deviceClassName": DRIVER, "selectors": [{"cel": {"expression": enough}}]}
    requests = [{"name": "gpu", "exactly": exactly}]
    return {"metadata": {"name": name}, "spec": {"spec": {"devices": {"requests": requests}}}}
