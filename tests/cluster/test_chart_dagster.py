"""The values for Dagster's own chart make an instance that Dagster opens, with what is ours in it.

Dagster's chart itself is not at hand: it writes these values into dagster.yaml in snake case.
"""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from agent_pipelines.components.run_claims import CLAIM_TAG
from agent_pipelines.components.run_coordinator import ClaimingRunCoordinator
from agent_pipelines.components.run_launcher import PodRunLauncher
from tests.cluster import helm
from tests.cluster.control_plane import ControlPlane

_VALUES = yaml.safe_load((helm.DEPLOY / "values" / "upstream" / "dagster.yaml").read_text())


@pytest.fixture
def instance(tmp_path: Path, control_plane: ControlPlane) -> Any:
    daemon, runs = _VALUES["dagsterDaemon"], _VALUES["concurrency"]["runs"]
    launcher = _VALUES["runLauncher"]["config"]["customRunLauncher"]
    # Outside of a pod.
    access = {"load_incluster_config": False, "kubeconfig_file": str(control_plane.kubeconfig)}
    settings = {
        "run_launcher": {**launcher, "config": {**launcher["config"], **access}},
        "run_coordinator": daemon["runCoordinator"]["config"]["customRunCoordinator"],
        "run_monitoring": _snake(daemon["runMonitoring"]),
        "sensors": _snake(daemon["sensors"]),
        "schedules": _snake(daemon["schedules"]),
        "retention": _snake({k: v for k, v in _VALUES["retention"].items() if k != "enabled"}),
        "concurrency": {"pools": _snake(_VALUES["concurrency"]["pools"]), "runs": _snake(runs)},
        "telemetry": _VALUES["telemetry"],
        **_VALUES["additionalInstanceConfig"],
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def _snake(settings: dict[str, Any]) -> dict[str, Any]:
    """Its own keys; what is in them is written as it is."""
    return {
        re.sub("([A-Z])", lambda found: f"_{found[1].lower()}", key): _snake(value)
        if isinstance(value, dict)
        else value
        for key, value in settings.items()
    }


def test_runs_are_queued_and_launched_by_what_is_ours(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.run_coordinator, ClaimingRunCoordinator)
    launcher = instance.run_launcher
    assert isinstance(launcher, PodRunLauncher)
    # As the agent-pipelines chart and the README call them.
    assert launcher.job_namespace == "agent-pipelines"
    assert launcher.instance_config_map == "dagster-instance"
    assert _VALUES["global"]["serviceAccountName"] == "agent-pipelines-launcher"
    (server,) = _VALUES["dagsterWebserver"]["workspace"]["servers"]
    assert server["host"] == "agent-pipelines-code-location"
    assert instance.run_retries_enabled


def test_agents_never_take_the_last_places(instance: dg.DagsterInstance) -> None:
    queue = instance.get_concurrency_config().run_queue_config
    assert queue is not None
    limits = {
        limit["key"]: limit["limit"]
        for limit in queue.tag_concurrency_limits
        if "value" not in limit
    }
    assert limits.keys() == {"agent", CLAIM_TAG}
    # A run may have one of these tags without the other.
    assert sum(limits.values()) < queue.max_concurrent_runs


def test_one_image_runs_all_of_dagster() -> None:
    images = [_VALUES[part]["image"] for part in ("dagsterWebserver", "dagsterDaemon")]
    chart = yaml.safe_load((helm.CHART / "values.yaml").read_text())["image"]["repository"]
    version = yaml.safe_load((helm.CHART / "Chart.yaml").read_text())["appVersion"]
    for image in images:
        assert (image["repository"], image["tag"]) == (chart, f"{version}-cpu")
