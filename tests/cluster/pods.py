"""Pods that run on a real node of the tests: programs of this machine in an almost empty image.

Belongs here: what such a pod must look like. Does not belong here: what a test runs in it.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster import images

_ROOT = Path(__file__).parents[2]


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
    pod = host_pod(name, [sys.executable, "-c", program], node=node, restart="Never")
    pod["spec"]["serviceAccountName"] = service_account
    (container,) = pod["spec"]["containers"]
    container["env"] = [
        {"name": "PYTHONPATH", "value": str(_ROOT)},
        {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
    ]
    volumes, mounts = folders(*python_folders())
    pod["spec"]["volumes"] += volumes
    container["volumeMounts"] += mounts
    return pod


def python_folders() -> list[Path]:
    """What a pod needs to run the tests' Python and this project, besides /usr."""
    return [
        path for path in map(Path, (_ROOT, sys.prefix, sys.base_prefix)) if path != Path("/usr")
    ]


def folders(*paths: Path, writable: bool = False) -> tuple[list[Any], list[Any]]:
    """Volumes and mounts of these folders of the machine, each where it is."""
    digests = (hashlib.sha256(os.fsencode(path)).hexdigest()[:12] for path in paths)
    names = {f"host-{digest}": path for digest, path in zip(digests, paths, strict=True)}
    return (
        [{"name": name, "hostPath": {"path": str(path)}} for name, path in names.items()],
        [
            {"name": name, "mountPath": str(path), "readOnly": not writable}
            for name, path in names.items()
        ],
    )
