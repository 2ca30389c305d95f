"""The machines of the fleet, and what the catalogue of prices and speeds says of their devices.

Belongs here: how many of which GPU there are. Does not belong here: who asks for them (`policies`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent_pipelines.gpu.devices import CATALOGUE, Device
from tests.cluster.devices import A10, A100_40, A100_80, H100, L4, T4, Gpu, slices
from tests.cluster.fleet import Size

Machines = Mapping[str, Sequence[Gpu]]

#: The catalogue's name of each kind.
_NAMES = {T4: "T4", L4: "L4", A10: "A10", A100_40: "A100-40", A100_80: "A100-80", H100: "H100-SXM"}


@dataclass(frozen=True)
class Slot:
    """A device that can be given to somebody."""

    machine: str
    name: str
    """Its own, on that machine."""
    device: Device
    root: str
    """Of its PCIe tree."""

    @property
    def share(self) -> float:
        """The part of a GPU that it is, as its price says."""
        if self.device.profile is None:
            return 1.0
        return self.device.price / CATALOGUE[self.device.name.rpartition("-")[0]].price


def _paired(*gpus: Gpu) -> list[Gpu]:
    """Two and two behind one PCIe switch, as machines with eight have them."""
    return [replace(gpu, root=f"pci0000:{16 + n // 2:02x}") for n, gpu in enumerate(gpus)]


#: 44 GPUs, of which seven are cut.
FLEET: Machines = {
    **{f"t4-{n}": [Gpu(T4)] * 4 for n in (1, 2)},
    **{f"l4-{n}": [Gpu(L4)] * 4 for n in (1, 2)},
    **{f"a10-{n}": [Gpu(A10)] * 4 for n in (1, 2)},
    "a100-40": _paired(
        *[Gpu(A100_40)] * 4,
        *[Gpu(A100_40, mig=("2g.10gb",) * 3)] * 2,
        *[Gpu(A100_40, mig=("3g.20gb",) * 2)] * 2,
    ),
    "a100-80": _paired(
        *[Gpu(A100_80)] * 5,
        *[Gpu(A100_80, mig=("1g.10gb",) * 7)] * 2,
        Gpu(A100_80, mig=("2g.20gb",) * 3),
    ),
    "h100": _paired(*[Gpu(H100)] * 4),
}

#: One of each: to see that everything works.
SMALL: Machines = {
    "t4": [Gpu(T4)],
    "a10": [Gpu(A10)],
    "a100-80": _paired(Gpu(A100_80), Gpu(A100_80), Gpu(A100_80, mig=("1g.10gb",) * 2)),
}


#: What a machine has beside each GPU, as clouds cut them: g4dn, g6 and g5.12xlarge, p4d and p5.
_BESIDE_SMALL, _BESIDE_LARGE = Size(12, 48), Size(12, 144)

#: Of a model server, as the chart has it.
SERVER = Size(4, 16)


def sizes(machines: Machines) -> Mapping[str, Size]:
    """What else the machines have."""
    return {name: _size(gpus) for name, gpus in machines.items()}


def _size(gpus: Sequence[Gpu]) -> Size:
    each = _BESIDE_LARGE if gpus[0].model.profiles else _BESIDE_SMALL
    return Size(each.cpu * len(gpus), each.memory * len(gpus))


def uncut(machines: Machines) -> Machines:
    """The same machines with every GPU whole."""
    return {name: [replace(gpu, mig=()) for gpu in gpus] for name, gpus in machines.items()}


def slots(machines: Machines) -> list[Slot]:
    """Every device of these machines."""
    return [
        Slot(machine, device["name"], _device(gpus[_number(device["name"])], device), _root(device))
        for machine, gpus in machines.items()
        for made in slices(machine, gpus)
        for device in made["spec"]["devices"]
    ]


def kinds(machines: Machines) -> list[Device]:
    """What a user's YAML would list: each kind of device there is."""
    return list({slot.device.name: slot.device for slot in slots(machines)}.values())


def _number(device: str) -> int:
    """Of the GPU that `gpu-3` or `gpu-3-mig-…` is or belongs to."""
    return int(device.split("-")[1])


def _device(gpu: Gpu, published: Mapping[str, Mapping[str, Mapping[str, str]]]) -> Device:
    profile = published["attributes"].get("profile", {}).get("string")
    name = _NAMES[gpu.model]
    return CATALOGUE[f"{name}-{profile}" if profile else name]


def _root(published: Mapping[str, Mapping[str, Mapping[str, str]]]) -> str:
    return published["attributes"]["resource.kubernetes.io/pcieRoot"]["string"]
