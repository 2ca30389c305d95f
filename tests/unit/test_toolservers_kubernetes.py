"""What of a pod's status depends on the time, and what `describe` masks; without a cluster."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agent_pipelines.errors import UserError
from agent_pipelines.toolservers.kubernetes import masking, pods
from agent_pipelines.toolservers.kubernetes.server import TOOL_SERVER

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def ago(**span: float) -> str:
    return (NOW - timedelta(**span)).isoformat()


def pod(phase: str, state: dict[str, Any], *, made: str, **more: Any) -> dict[str, Any]:
    container = {"name": "main", "ready": "running" in state, "state": state}
    return {
        "metadata": {"name": "pod", "creationTimestamp": made, **more.pop("metadata", {})},
        "spec": {"containers": [{"name": "main"}]},
        "status": {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": str("running" in state)}],
            "containerStatuses": [{**container, **more}],
        },
    }


CRASH = {"terminated": {"reason": "Error", "exitCode": 1, "finishedAt": ago(seconds=40)}}


@pytest.mark.parametrize(
    ("given", "health", "reasons"),
    [
        # Being made takes a moment; a volume that cannot be mounted takes for ever.
        (
            pod("Pending", {"waiting": {"reason": "ContainerCreating"}}, made=ago(seconds=9)),
            *("starting", []),
        ),
        (
            pod("Pending", {"waiting": {"reason": "ContainerCreating"}}, made=ago(minutes=11)),
            *("unhealthy", ["StillStarting"]),
        ),
        # It runs and is ready, at this moment.
        (
            pod(
                *("Running", {"running": {"startedAt": ago(seconds=30)}}),
                made=ago(hours=1),
                restartCount=9,
                lastState=CRASH,
            ),
            *("unhealthy", ["RestartsRepeatedly"]),
        ),
        (
            pod(
                *("Running", {"running": {"startedAt": ago(minutes=11)}}),
                made=ago(hours=1),
                restartCount=9,
                lastState=CRASH,
            ),
            *("healthy", []),
        ),
        # Told to end; the timestamp is when its grace is over.
        (
            pod(
                *("Running", {"running": {"startedAt": ago(hours=1)}}),
                made=ago(hours=1),
                metadata={"deletionTimestamp": ago(seconds=-20)},
            ),
            *("ending", []),
        ),
        (
            pod(
                *("Running", {"running": {"startedAt": ago(hours=1)}}),
                made=ago(hours=1),
                metadata={"deletionTimestamp": ago(hours=1), "finalizers": ["example.com/hold"]},
            ),
            *("unhealthy", ["StuckTerminating"]),
        ),
    ],
)
def test_time_tells_what_is_on_its_way_from_what_is_stuck(
    given: dict[str, Any], health: str, reasons: list[str]
) -> None:
    status = pods.assess(given, NOW)
    assert (status.health, [problem.reason for problem in status.problems]) == (health, reasons)


def test_a_commandline_shows_everything_but_what_looks_like_a_password() -> None:
    shown, cut = masking.shown(
        {
            "metadata": {"name": "llm", "labels": {"env": "prod", "command": "x"}},
            "spec": {
                "command": ["sh", "-c", "API_KEY=geheim1 serve 'Authorization: Bearer geheim2'"],
                "args": [
                    *("--max-num-batched-tokens=8192", "--tokenizer", "mistral"),
                    *("--token", "geheim3", "--hf-token=geheim4", "postgres://me:geheim5@db/x"),
                ],
            },
        }
    )
    assert "geheim" not in json.dumps(shown)
    assert shown["spec"]["args"] == [
        *("--max-num-batched-tokens=8192", "--tokenizer", "mistral"),
        *("--token", masking.MASK, f"--hf-token={masking.MASK}"),
        f"postgres://{masking.MASK}@db/x",
    ]
    assert shown["metadata"]["labels"] == {"env": "prod", "command": "x"}
    assert not cut


def test_a_large_object_is_cut_and_says_so() -> None:
    images = [{"names": [f"image-{n}"]} for n in range(500)]
    shown, cut = masking.shown({"metadata": {"name": "n"}, "status": {"images": images}})
    assert cut
    assert len(shown["status"]["images"]) == 101
    assert shown["status"]["images"][-1] == "(400 more)"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"KUBECONFIG": "/no/such"}, "no Kubernetes API server can be found: KUBECONFIG /no/such"),
        (
            {"TOOLS_KUBERNETES_NAMESPACES": "shop,../x"},
            "TOOLS_KUBERNETES_NAMESPACES is 'shop,../x'",
        ),
        ({"TOOLS_KUBERNETES_NAMESPACES": " , "}, "which allows nothing"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_served(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message), TOOL_SERVER.open():
        pass
