"""Pods that run on a real node of the tests: programs of this machine in an almost empty image.

Belongs here: what such a pod must look like. Does not belong here: what a test runs in it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster import images


def host_pod(
    name: str, command: Sequence[str], *, node: str | None = None, restart: str = "Always"
) -> dict[str, Any]:
    """A pod that runs this command with the host's /usr."""
    pod: dict[str, Any] = {
        "metadata": {"name": name},
        "spec": {
            "hostNetwork": True,
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": images.HOST_ROOT,
                    "imagePullPolicy": "Never",
                    "command": list(command),
                    "volumeMounts": [{"name": "usr", "mountPath": "/usr", "readOnly": True}],
                }
            ],
            "volumes": [{"name": "usr", "hostPath": {"path": "/usr"}}],
        },
    }
    if node is not None:
        pod["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}
    return pod


def python_pod(name: str, program: str, *, service_account: str, node: str) -> dict[str, Any]:
    """A pod that runs this program once, with the Python and the code that run the tests."""
    root = Path(__file__).parents[2]
    pod = host_pod(name, [sys.executable, "-c", program], node=node, restart="Never")
    pod["spec"]["serviceAccountName"] = service_account
    (container,) = pod["spec"]["containers"]
    container["env"] = [
        {"name": "PYTHONPATH", "value": str(root)},
        {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
    ]
    for number, path in enumerate({str(root), sys.prefix, sys.base_prefix} - {"/usr"}):
        volume = {"name": f"host-{number}", "hostPath": {"path": path}}
        pod["spec"]["volumes"].append(volume)
        container["volumeMounts"].append(
            {"name": f"host-{number}", "mountPath": path, "readOnly": True}
        )
    return pod
