"""The cluster itself: what runs in it is real, and nothing of it outlives the tests.

Run as a program it is a session that starts a cluster with a pod in the folder that it is given.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster import binaries
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node import Node
from tests.cluster.pods import host_pod
from tests.processes import until

_ROOT = Path(__file__).parents[2]
_SESSION = "tests.cluster.test_cluster"

_DEVICE = {
    "name": "gpu-0",
    "attributes": {
        "type": {"string": "gpu"},
        "uuid": {"string": "GPU-00000000-a"},
        "productName": {"string": "Tesla T4"},
    },
    "capacity": {"memory": {"value": "15360Mi"}},
}

_GPUS = """
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpu.nvidia.com}
spec:
  selectors: [{cel: {expression: 'device.driver == "gpu.nvidia.com"'}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: gpu, namespace: devices}
spec:
  spec:
    devices:
      requests: [{name: gpu, exactly: {deviceClassName: gpu.nvidia.com}}]
"""


def test_a_pod_gets_the_fake_gpu_that_its_claim_asks_for(control_plane: ControlPlane) -> None:
    if reason := binaries.no_node_because():
        pytest.skip(reason)
    gpus = Node(control_plane, control_plane.node_address(9), devices=[_DEVICE])
    try:
        control_plane.make_namespace("devices")
        control_plane.kubectl("apply", "-f", "-", text=_GPUS)
        pod = host_pod("asks", ["/bin/sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES"], restart="Never")
        pod["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]
        pod["spec"]["containers"][0]["resources"] = {"claims": [{"name": "gpu"}]}
        path = "/api/v1/namespaces/devices/pods"
        control_plane.ask("POST", path, pod)
        until(
            lambda: control_plane.ask("GET", f"{path}/asks")["status"]["phase"] == "Succeeded",
            *(60, "the pod has ended"),
        )
        assert control_plane.kubectl("logs", "asks", "-n", "devices") == "GPU-00000000-a\n"
    finally:
        gpus.end()
    assert gpus.name not in control_plane.kubectl("get", "nodes", "-o", "name")


@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_nothing_outlives_the_session(end: str) -> None:
    with tempfile.TemporaryDirectory(prefix="cluster-") as given:
        folder = Path(given)
        session = subprocess.Popen(
            [sys.executable, "-m", _SESSION, folder / "cluster"],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert session.stdout is not None
        with session.stdout:
            address = session.stdout.readline().strip()
        try:
            # With a node also kubelet, containerd, a pod's shim and its process.
            assert len(_processes(folder)) >= (4 if binaries.no_node_because() else 8)
            assert address in _listening()
            session.send_signal(signal.SIGTERM if end == "ends" else signal.SIGKILL)
            session.wait(timeout=60)
            until(lambda: not _processes(folder), 20, "the end of every process")
        finally:
            session.kill()
            session.wait()
        # What a process held goes a moment after its command line.
        until(lambda: address not in _listening(), 20, "the port is free")
        if sys.platform == "linux":
            mounts = Path("/proc/mounts")
            until(lambda: str(folder) not in mounts.read_text(), 20, "the mounts are gone")


def _listening() -> set[str]:
    return {
        f"{connection.laddr.ip}:{connection.laddr.port}"
        for connection in psutil.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }


def _processes(folder: Path) -> list[list[str]]:
    """The commands that name the cluster's folder, but for the session itself."""
    commands = [
        process.info["cmdline"] or []
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
    ]
    return [
        command
        for command in commands
        if any(str(folder) in argument for argument in command) and _SESSION not in command
    ]


def _session(folder: Path) -> None:
    """Start everything, say where the API server is, and wait for the end."""
    folder.mkdir()
    control_plane = ControlPlane(folder)
    nodes = []
    try:
        if binaries.no_node_because() is None:
            nodes.append(Node(control_plane, control_plane.node_address(1)))
            path = "/api/v1/namespaces/default/pods"
            # It names the folder, so that it is seen among all processes.
            command = ["/bin/sh", "-c", f"while sleep 1; do :; done # {folder}"]
            control_plane.ask("POST", path, host_pod("sleeps", command))
            until(
                lambda: control_plane.ask("GET", f"{path}/sleeps")["status"]["phase"] == "Running",
                *(60, "the pod runs"),
            )
        print(f"{control_plane.addresses.host}:{control_plane.addresses.port}", flush=True)
        time.sleep(600)
    finally:
        for node in nodes:
            node.end()
        control_plane.end()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _session(Path(sys.argv[1]))
