"""GPUs as NVIDIA's DRA driver publishes them, for machines that have none.

Belongs here: names, attributes and capacities, as data. Does not belong here: which node has which
of them (`fleet`), or handing them to containers (`source/kube-all/fakegpu_linux.go`).

Written after kubernetes-sigs/dra-driver-nvidia-gpu, cmd/gpu-kubelet-plugin (deviceinfo.go, mig.go,
partitions.go) and its chart's device classes. Memory is what NVML reports, and not the label.
"""

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DRIVER = "gpu.nvidia.com"
PCIE_ROOT = "resource.kubernetes.io/pcieRoot"

_DRIVER_VERSION, _CUDA_VERSION = "580.126.20", "13.0.0"

Object = dict[str, Any]


@dataclass(frozen=True)
class Profile:
    """A way to cut a GPU, as `nvidia-smi mig -lgip` and `-lgipp` list it."""

    name: str
    number: int
    """Of the GPU instance profile."""
    memory: int
    """MiB."""
    multiprocessors: int
    copy_engines: int
    decoders: int
    starts: Sequence[int]
    """Memory slices at which one may begin."""
    size: int
    """Memory slices that one takes."""


@dataclass(frozen=True)
class Model:
    """A kind of GPU."""

    product: str
    architecture: str
    compute_capability: str
    memory: int
    """MiB."""
    profiles: Sequence[Profile] = ()

    def profile(self, name: str) -> Profile:
        return next(profile for profile in self.profiles if profile.name == name)


def _profiles(
    *rows: tuple[str, int, int, int, int, int, Sequence[int], int],
) -> tuple[Profile, ...]:
    return tuple(Profile(*row) for row in rows)


T4 = Model("Tesla T4", "Turing", "7.5.0", 15360)
L4 = Model("NVIDIA L4", "Ada Lovelace", "8.9.0", 23034)
A10 = Model("NVIDIA A10", "Ampere", "8.6.0", 23028)
A100_40 = Model(
    "NVIDIA A100-SXM4-40GB",
    "Ampere",
    "8.0.0",
    40960,
    _profiles(
        ("1g.5gb", 19, 4864, 14, 1, 0, range(7), 1),
        ("2g.10gb", 14, 9984, 28, 2, 1, (0, 2, 4), 2),
        ("3g.20gb", 9, 20096, 42, 3, 2, (0, 4), 4),
        ("4g.20gb", 5, 20096, 56, 4, 2, (0,), 4),
        ("7g.40gb", 0, 40448, 98, 7, 5, (0,), 8),
    ),
)
A100_80 = Model(
    "NVIDIA A100-SXM4-80GB",
    "Ampere",
    "8.0.0",
    81920,
    _profiles(
        ("1g.10gb", 19, 9728, 14, 1, 0, range(7), 1),
        ("1g.20gb", 15, 19968, 14, 1, 1, (0, 2, 4, 6), 2),
        ("2g.20gb", 14, 19968, 28, 2, 1, (0, 2, 4), 2),
        ("3g.40gb", 9, 40192, 42, 3, 2, (0, 4), 4),
        ("4g.40gb", 5, 40192, 56, 4, 2, (0,), 4),
        ("7g.80gb", 0, 81152, 98, 7, 5, (0,), 8),
    ),
)
H100 = Model(
    "NVIDIA H100 80GB HBM3",
    "Hopper",
    "9.0.0",
    81559,
    _profiles(
        ("1g.10gb", 19, 9984, 16, 1, 1, range(7), 1),
        ("1g.20gb", 15, 20096, 26, 1, 1, (0, 2, 4, 6), 2),
        ("2g.20gb", 14, 20096, 32, 2, 2, (0, 2, 4), 2),
        ("3g.40gb", 9, 40448, 60, 3, 3, (0, 4), 4),
        ("4g.40gb", 5, 40448, 64, 4, 4, (0,), 4),
        ("7g.80gb", 0, 81152, 132, 8, 7, (0,), 8),
    ),
)


@dataclass(frozen=True)
class Gpu:
    """One GPU of a node.

    Cut beforehand (`mig`), the GPU itself is not published. Cut when it is asked for (`dynamic`,
    the driver's feature gate DynamicMIG), it is published whole and as everything that it may be
    cut into; counters that all of these share keep what overlaps from being given twice.
    """

    model: Model
    root: str = ""
    """Of the PCIe tree that it hangs on, such as `pci0000:10`; default: one of its own."""
    mig: Sequence[str] = ()
    """Profiles, placed from the left."""
    dynamic: bool = False


def device_class(kind: str) -> Object:
    """`gpu.nvidia.com` or `mig.nvidia.com`, as the driver's chart defines them."""
    selector = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == '{kind}'"
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": f"{kind}.nvidia.com"},
        "spec": {"selectors": [{"cel": {"expression": selector}}]},
    }


def slices(node: str, gpus: Sequence[Gpu]) -> list[Object]:
    """The ResourceSlices of a node.

    Whatever is cut when asked for has one slice of its own, and the counters of all GPUs are in
    another, as the driver publishes them from Kubernetes 1.35 on.
    """
    placed = [_Placed(gpu, node, minor) for minor, gpu in enumerate(gpus)]
    counters = [one.counter_set() for one in placed if one.gpu.dynamic]
    contents: list[Object]
    if counters:
        contents = [{"sharedCounters": counters}, *({"devices": one.devices()} for one in placed)]
    else:
        contents = [{"devices": [device for one in placed for device in one.devices()]}]
    pool = {"name": node, "generation": 1, "resourceSliceCount": len(contents)}
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": f"{node}-{DRIVER}-{number}"},
            "spec": {"driver": DRIVER, "nodeName": node, "pool": pool, **content},
        }
        for number, content in enumerate(contents)
    ]


@dataclass(frozen=True)
class _Placed:
    """A GPU in its node."""

    gpu: Gpu
    node: str
    minor: int

    @property
    def name(self) -> str:
        return f"gpu-{self.minor}"

    def devices(self) -> list[Object]:
        """What is published of it, by name."""
        model = self.gpu.model
        if self.gpu.dynamic:
            cut = [self._slice(p, at) for p in model.profiles for at in p.starts]
            found = [self._consuming(device, size) for device, size in [self._whole(), *cut]]
        elif self.gpu.mig:
            found = [
                device | {"capacity": device["capacity"] | _memory_slices(taken)}
                for device, taken in self._cut()
            ]
        else:
            found = [self._whole()[0] | {"capacity": {"memory": _mib(model.memory)}}]
        return sorted(found, key=lambda device: str(device["name"]))

    def counter_set(self) -> Object:
        """Everything that there is of it to be given."""
        whole, taken = self._whole()
        return {"name": f"{self.name}-counter-set", "counters": _counters(whole, taken)}

    def _whole(self) -> tuple[Object, range]:
        """The GPU with all that any part of it can have; all memory slices."""
        parts = self.gpu.model.profiles
        capacities = [_capacity(profile) for profile in parts]
        device = {
            "name": self.name,
            "attributes": {
                **self._attributes(),
                "type": {"string": "gpu"},
                "uuid": {"string": self._uuid("GPU", self.name)},
            },
            "capacity": {
                name: max((c[name] for c in capacities), key=lambda c: _amount(c["value"]))
                for name in (capacities[0] if capacities else ())
            },
        }
        return device, range(max((profile.size for profile in parts), default=0))

    def _cut(self) -> list[tuple[Object, range]]:
        """The parts that it was cut into, each at the first place that is left."""
        taken: set[int] = set()
        found = []
        for name in self.gpu.mig:
            profile = self.gpu.model.profile(name)
            start = next(
                at for at in profile.starts if not taken & set(range(at, at + profile.size))
            )
            taken |= set(range(start, start + profile.size))
            device, place = self._slice(profile, start)
            uuid_ = {"string": self._uuid("MIG", device["name"])}
            found.append((device | {"attributes": device["attributes"] | {"uuid": uuid_}}, place))
        return found

    def _slice(self, profile: Profile, start: int) -> tuple[Object, range]:
        """A part of it; it has an identity of its own only once it was cut."""
        device = {
            "name": f"{self.name}-mig-{profile.name.replace('.', '')}-{profile.number}-{start}",
            "attributes": {
                **self._attributes(),
                "type": {"string": "mig"},
                "profile": {"string": profile.name},
                "parentUUID": {"string": self._uuid("GPU", self.name)},
            },
            "capacity": _capacity(profile),
        }
        return device, range(start, start + profile.size)

    def _consuming(self, device: Object, taken: range) -> Object:
        consumed = {
            "counterSet": f"{self.name}-counter-set",
            "counters": _counters(device, taken),
        }
        return device | {"consumesCounters": [consumed]}

    def _attributes(self) -> Object:
        model = self.gpu.model
        bus = 0x10 + self.minor
        return {
            "productName": {"string": model.product},
            "brand": {"string": "Nvidia"},
            "architecture": {"string": model.architecture},
            "cudaComputeCapability": {"version": model.compute_capability},
            "driverVersion": {"version": _DRIVER_VERSION},
            "cudaDriverVersion": {"version": _CUDA_VERSION},
            "resource.kubernetes.io/pciBusID": {"string": f"0000:{bus + 1:02x}:00.0"},
            PCIE_ROOT: {"string": self.gpu.root or f"pci0000:{bus:02x}"},
        }

    def _uuid(self, kind: str, name: str) -> str:
        return f"{kind}-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{name}.{self.node}')}"


def _capacity(profile: Profile) -> Object:
    counted = {
        "multiprocessors": profile.multiprocessors,
        "copyEngines": profile.copy_engines,
        "decoders": profile.decoders,
        "encoders": 0,
        "jpegEngines": 0,
        "ofaEngines": 0,
    }
    amounts = {name: {"value": str(number)} for name, number in counted.items()}
    return {**amounts, "memory": _mib(profile.memory)}


def _counters(device: Object, taken: range) -> Object:
    """What a device takes of its counter set: every capacity, and its memory slices one by one."""
    capacities = {
        re.sub("([a-z0-9])([A-Z])", r"\1-\2", name).lower(): value
        for name, value in device["capacity"].items()
    }
    return {**capacities, **{f"memory-slice-{n}": {"value": "1"} for n in taken}}


def _memory_slices(taken: range) -> Object:
    return {f"memorySlice{number}": {"value": "1"} for number in taken}


def _mib(number: int) -> Mapping[str, str]:
    return {"value": f"{number}Mi"}


def _amount(quantity: str) -> int:
    return int(quantity.removesuffix("Mi"))
