"""What `claim` prints is a template that a real API server takes as it is."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from agent_pipelines.cli import app
from tests.cluster.control_plane import ControlPlane
from tests.models import write_model


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        # Eight tiers, whole devices and slices, some told apart by name.
        ("Qwen3-0.6B", ["--context", "8192"]),
        # Several devices that share the model, below one PCIe root.
        ("Llama-3.1-70B", ["--context", "8192", "--concurrency", "8", "--ttft-ms", "2000"]),
    ],
)
def test_the_template_is_taken(
    control_plane: ControlPlane, tmp_path: Path, model: str, arguments: list[str]
) -> None:
    folder = write_model(tmp_path / model, model)
    printed = CliRunner().invoke(app, ["claim", str(folder), *arguments])
    assert printed.exit_code == 0, printed.output
    taken = yaml.safe_load(
        control_plane.kubectl(
            *("apply", "--server-side", "--dry-run=server", "--validate=strict"),
            *("-n", "default", "-f", "-", "-o", "yaml"),
            text=printed.stdout,
        )
    )
    # Nothing was left out of it, and nothing that is not known is in it.
    (wanted,), (got,) = (
        template["spec"]["spec"]["devices"]["requests"]
        for template in (yaml.safe_load(printed.stdout), taken)
    )
    assert [
        {key: request[key] for key in ("name", "deviceClassName", "count", "selectors")}
        for request in got["firstAvailable"]
    ] == wanted["firstAvailable"]
