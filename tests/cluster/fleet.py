"""Nodes with GPUs that exist for the scheduler alone: nothing runs on them, pods are only placed.

Belongs here: making such nodes, asking for their devices, and seeing who got what. Does not belong
here: the devices (`devices`), or which fleets and claims are tried.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.cluster import devices
from tests.cluster.control_plane import ControlPlane
from tests.cluster.devices import Gpu
from tests.cluster.watch import Objects, Watch

_T = TypeVar("_T")

_SECONDS = 60.0

_CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"
_SLICES = "/apis/resource.k8s.io/v1/resourceslices"
_NODES = "/api/v1/nodes"
_AT_ONCE = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}

_INFO = (
    *("machineID", "systemUUID", "bootID", "kernelVersion", "osImage"),
    *("containerRuntimeVersion", "kubeProxyVersion", "kubeletVersion"),
)


@dataclass(frozen=True)
class Size:
    """Of a node, or what a pod asks of one."""

    cpu: int
    memory: int
    """GiB."""

    def resources(self) -> dict[str, str]:
        return {"cpu": str(self.cpu), "memory": f"{self.memory}Gi"}


_PLENTY = Size(256, 1024)


@dataclass(frozen=True)
class Placement:
    """What a pod got."""

    node: str
    devices: Sequence[str]
    """In the order of its claim's requests; empty without a claim."""


class Fleet:
    """A namespace and nodes of its own, which are gone at the end."""

    def __init__(
        self,
        control_plane: ControlPlane,
        nodes: Mapping[str, Sequence[Gpu]],
        *,
        sizes: Mapping[str, Size] | None = None,
        plugin: bool = False,
    ) -> None:
        """Args:
        control_plane: where they are made.
        nodes: their GPUs by their names, in the order in which they join.
        sizes: what else they have; default: plenty.
        plugin: devices are counted as NVIDIA's device plugin does, with the labels of its feature
            discovery, instead of published by the DRA driver.
        """
        self.name = f"fleet-{uuid.uuid4().hex[:8]}"
        self.nodes = nodes
        self._sizes = sizes or {}
        self._cluster = control_plane
        self._slices: list[str] = []
        self._pods = f"/api/v1/namespaces/{self.name}/pods"
        self._claims = f"/apis/resource.k8s.io/v1/namespaces/{self.name}"
        control_plane.make_namespace(self.name)
        for kind in ("gpu", "mig"):
            self._apply(_CLASSES, devices.device_class(kind))
        for name, gpus in nodes.items():
            control_plane.ask("POST", _NODES, self._node(name, gpus if plugin else ()))
            for made in () if plugin else devices.slices(self.node(name), gpus):
                control_plane.ask("POST", _SLICES, made)
                self._slices.append(made["metadata"]["name"])
        self._watch = Watch(control_plane, pods=self._pods, claims=f"{self._claims}/resourceclaims")

    def node(self, name: str) -> str:
        """What the cluster calls this node: fleets may come one after the other."""
        return f"{name}.{self.name}"

    def offer(self, template: Mapping[str, Any]) -> None:
        """Make a ResourceClaimTemplate."""
        self._cluster.ask("POST", f"{self._claims}/resourceclaimtemplates", template)

    def ask_for(
        self,
        pod: str,
        template: str | None = None,
        *,
        size: Size | None = None,
        limits: Mapping[str, str] | None = None,
        affinity: Mapping[str, Any] | None = None,
    ) -> None:
        """Make a pod that wants a claim of this template, or these extended resources; and so much
        of its node, default: nothing.
        """
        spec: dict[str, Any] = {
            "nodeSelector": {"fleet": self.name},
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "never.run/here:1"}],
        }
        (container,) = spec["containers"]
        container["resources"] = {"requests": size.resources() if size else {}}
        if template:
            spec["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": template}]
            container["resources"]["claims"] = [{"name": "gpu"}]
        if limits:
            container["resources"]["limits"] = dict(limits)
        if affinity:
            spec["affinity"] = dict(affinity)
        self._cluster.ask("POST", self._pods, {"metadata": {"name": pod}, "spec": spec})

    def end_pod(self, pod: str) -> None:
        """It is done: what it held is free again."""
        self._cluster.ask("DELETE", f"{self._pods}/{pod}", _AT_ONCE)

    def placed(self, *pods: str) -> list[Placement]:
        """Wait until each of them is placed, and see where."""

        def all_placed(found: Mapping[str, Objects]) -> list[Placement] | None:
            placements = [placement(pod, found) for pod in pods]
            whole = [one for one in placements if one is not None]
            return whole if len(whole) == len(pods) else None

        return self.until(all_placed, f"{', '.join(pods)} placed")

    def waits(self, pod: str) -> str:
        """Wait until the scheduler says that it cannot place it, and see why."""

        def why(found: Mapping[str, Objects]) -> str | None:
            conditions = found["pods"].get(pod, {}).get("status", {}).get("conditions", [])
            said = next((c for c in conditions if c["type"] == "PodScheduled"), {})
            refused = said.get("status") == "False" and said.get("reason") == "Unschedulable"
            return str(said["message"]) if refused else None

        return self.until(why, f"{pod} refused")

    def until(self, condition: Callable[[Mapping[str, Objects]], _T], what: str) -> _T:
        """The first true value of a condition on `pods` and `claims`, by name."""
        return self._watch.until(condition, _SECONDS, lambda: f"{what}: {self._why()}")

    def _why(self) -> dict[str, object]:
        """What is said of pods that have no node."""
        pods = self._cluster.ask("GET", self._pods)["items"]
        return {
            pod["metadata"]["name"]: pod["status"].get("conditions")
            for pod in pods
            if "nodeName" not in pod["spec"]
        }

    def end(self) -> None:
        """Everything of it goes."""
        # First, so that no job makes another pod.
        self._cluster.ask("DELETE", f"/api/v1/namespaces/{self.name}")
        self._cluster.ask("DELETE", self._pods, _AT_ONCE)
        self.until(lambda found: not found["pods"] and not found["claims"], "nothing is left")
        self._watch.end()
        for name in self._slices:
            self._cluster.ask("DELETE", f"{_SLICES}/{name}")
        for name in self.nodes:
            self._cluster.ask("DELETE", f"{_NODES}/{self.node(name)}")

    def _node(self, name: str, counted: Sequence[Gpu]) -> dict[str, Any]:
        resources = {**self._sizes.get(name, _PLENTY).resources(), "pods": "110"}
        labels = {"kubernetes.io/hostname": self.node(name), "fleet": self.name}
        whole = [gpu for gpu in counted if not gpu.mig]
        parts = Counter(profile for gpu in counted for profile in gpu.mig)
        if whole:
            resources["nvidia.com/gpu"] = str(len(whole))
            labels["nvidia.com/gpu.memory"] = str(whole[0].model.memory)
            labels["nvidia.com/gpu.product"] = whole[0].model.product.replace(" ", "-")
        resources |= {f"nvidia.com/mig-{profile}": str(n) for profile, n in parts.items()}
        return {
            "metadata": {"name": self.node(name), "labels": labels},
            "status": {
                "capacity": resources,
                "allocatable": resources,
                "nodeInfo": {
                    **dict.fromkeys(_INFO, "none"),
                    "operatingSystem": "linux",
                    "architecture": "amd64",
                },
                "conditions": [{"type": "Ready", "status": "True", "reason": "NobodyLooks"}],
            },
        }

    def _apply(self, path: str, made: Mapping[str, Any]) -> None:
        self._cluster.ask(
            "PATCH",
            f"{path}/{made['metadata']['name']}?fieldManager=fleet&force=true",
            made,
            content_type="application/apply-patch+yaml",
        )


def placement(pod: str, found: Mapping[str, Objects]) -> Placement | None:
    """Where it was placed, with its devices; None while it is not."""
    made = found["pods"].get(pod, {})
    node = made.get("spec", {}).get("nodeName")
    if node is None:
        return None
    names = [
        status["resourceClaimName"]
        for status in made["status"].get("resourceClaimStatuses", [])
        if status.get("resourceClaimName")
    ]
    got: list[str] = []
    for name in names:
        allocation = found["claims"].get(name, {}).get("status", {}).get("allocation")
        if allocation is None:
            return None
        got += [result["device"] for result in allocation["devices"]["results"]]
    return Placement(node.partition(".")[0], got)
