"""A real node on this machine: kubelet, containerd and crun, in namespaces of their own.

Belongs here: one node's configuration, start and end. Does not belong here: the control plane that
it joins, or pods.

What is not real: pods share the host's network (no CNI, kube-proxy or DNS, so Services and
NetworkPolicies do not act), and cgroup limits are not enforced. Pods use the image
`images.HOST_ROOT` with `imagePullPolicy: Never` and `hostNetwork`, and mount /usr from the host.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import binaries, images
from tests.cluster.control_plane import ControlPlane
from tests.cluster.programs import Program
from tests.processes import until

_SCRIPT = Path(__file__).with_name("node.sh")
_READY_SECONDS = 90.0
_GONE_SECONDS = 20.0
_KUBELET_PORT = 20250
_HEALTH_PORT = 20248

#: crun 1.8 refuses the version of the OCI that containerd 2 writes: it is shown an older one.
_CRUN = """#!/bin/sh
export LD_LIBRARY_PATH={libraries}
bundle= previous=
for argument in "$@"; do
    [ "$previous" = --bundle ] && bundle=$argument
    previous=$argument
done
if [ -n "$bundle" ] && [ -f "$bundle/config.json" ]; then
    sed -i 's/"ociVersion":"1\\.[1-9][^"]*"/"ociVersion":"1.0.2"/' "$bundle/config.json"
fi
exec {programs}/crun --cgroup-manager=disabled "$@"
"""

_CONTAINERD = """version = 3
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  enable_cdi = true
  cdi_spec_dirs = ["{folder}/cdi"]
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dir = "{folder}/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "crun"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun.options]
        BinaryName = "{folder}/crun"
"""

#: Never run, as all pods use the host's network; without one the node is not ready.
_NETWORK = {"cniVersion": "0.4.0", "name": "lo", "plugins": [{"type": "loopback"}]}


class Node:
    """One running node, named by the loopback address that its kubelet listens on.

    ``devices`` are fake GPUs, as `resource.k8s.io/v1` Devices, that its DRA plugin publishes.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        name: str,
        *,
        devices: Sequence[Mapping[str, Any]] = (),
        labels: Mapping[str, str] | None = None,
    ) -> None:
        runtime = binaries.node_binaries()
        self._control_plane = control_plane
        self.name = name
        self.folder = control_plane.folder / "nodes" / name
        self._configure(runtime, devices)
        self._program = Program(
            [
                *("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"),
                *("sh", _SCRIPT),
            ],
            self.folder / "node.log",
            cwd=self.folder,
            environment={
                "PATH": f"{runtime.programs}:{os.environ['PATH']}",
                "NODE": str(self.folder),
                "NAME": name,
                "IMAGES": str(runtime.images),
                "KUBE_ALL": str(control_plane.binary),
                "LABELS": ",".join(f"{key}={value}" for key, value in (labels or {}).items()),
            },
        )
        try:
            self._program.await_ready(self._ready, _READY_SECONDS)
        except BaseException:
            self.end()
            raise

    def kill(self) -> None:
        """End every process of the node and its pods at once; the cluster is told nothing."""
        # The death of unshare's child is the death of the pid namespace, and so of every process
        # in it, and of the mounts.
        self._program.end()

    def end(self) -> None:
        """End every process of the node and its pods, and take the node out of the cluster."""
        self.kill()
        until(self._let_go, _GONE_SECONDS, f"the folder of node {self.name} can be removed")
        self._control_plane.kubectl("delete", "node", self.name, "--ignore-not-found")

    def _configure(
        self, runtime: binaries.NodeBinaries, devices: Sequence[Mapping[str, Any]]
    ) -> None:
        for name in ("varlog", "cdi", "cni", "kubelet", "containerd"):
            (self.folder / name).mkdir(parents=True)
        keys, url = self._control_plane.keys, self._control_plane.addresses.url
        kubelet = keys.issue(f"system:node:{self.name}", group="system:nodes")
        keys.kubeconfig(self.folder / "kubelet.kubeconfig", url, kubelet)
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(self._kubelet(keys.authority)))
        (self.folder / "containerd.toml").write_text(
            _CONTAINERD.format(folder=self.folder, pause=images.PAUSE)
        )
        crun = self.folder / "crun"
        crun.write_text(_CRUN.format(programs=runtime.programs, libraries=runtime.libraries))
        crun.chmod(0o755)
        (self.folder / "cni" / "10-lo.conflist").write_text(json.dumps(_NETWORK))
        if devices:
            (self.folder / "devices.json").write_text(json.dumps(list(devices)))
            plugin = keys.issue(f"fakegpu-plugin:{self.name}", group="system:masters")
            keys.kubeconfig(self.folder / "plugin.kubeconfig", url, plugin)

    def _kubelet(self, authority: Path) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.name,
            "port": _KUBELET_PORT,
            "healthzBindAddress": self.name,
            "healthzPort": _HEALTH_PORT,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{self.folder}/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            # A changed Secret is in its pods so soon; by default it may take minutes.
            "syncFrequency": "5s",
            "localStorageCapacityIsolation": False,
            "oomScoreAdj": 0,
            # Renewed every quarter of it.
            "nodeLeaseDurationSeconds": 8,
            "protectKernelDefaults": True,
            "makeIPTablesUtilChains": False,
            # The machine's disk and memory are not this node's own: it evicts nothing for them.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "1Mi"},
            "volumePluginDir": str(self.folder / "kubelet" / "volumeplugins"),
        }

    def _ready(self) -> bool:
        nodes = self._control_plane.ask("GET", "/api/v1/nodes")["items"]
        return any(
            node["metadata"]["name"] == self.name
            and condition["type"] == "Ready"
            and condition["status"] == "True"
            for node in nodes
            for condition in node["status"].get("conditions", [])
        )

    def _let_go(self) -> bool:
        """Mounts inside the folder go with the last process of the namespace, a moment later."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self.folder.exists()
