"""Ways to ask a cluster for the devices of a batch: ours, and those that it is compared with.

Belongs here: the request of a batch, and which free devices would satisfy it. Does not belong here:
which of them the scheduler gives (`simulation`).

The machines are the same in each. Only ours finds some GPUs cut into slices, as nobody else asks
for slices.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent_pipelines.gpu.claims import claim_template
from agent_pipelines.gpu.devices import MIB, Device
from agent_pipelines.gpu.memory import can_share, fits, memory
from agent_pipelines.gpu.plan import COUNTS, Tier, plan
from tests.bench.fleet.day import Batch
from tests.bench.fleet.machines import Machines, Slot, kinds, uncut
from tests.cluster.devices import DRIVER


@dataclass(frozen=True)
class Want:
    """So many devices of one kind, of one machine."""

    device: Device
    count: int
    aligned: bool = False
    """All below one PCIe root."""

    @property
    def price(self) -> float:
        return self.device.price * self.count

    def found_in(self, free: Iterable[Slot]) -> bool:
        """Whether these, free, are enough."""
        group = Counter(
            (slot.machine, slot.root if self.aligned else "")
            for slot in free
            if slot.device == self.device
        )
        return any(number >= self.count for number in group.values())


@dataclass(frozen=True)
class Request:
    """What the pod of a batch asks for: a claim of this template, or extended resources."""

    wants: Sequence[Want]
    """Any of them satisfies it; of each kind of device one."""
    template: Mapping[str, Any] | None = None
    limits: Mapping[str, str] | None = None
    affinity: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Policy:
    """A way to ask."""

    name: str
    title: str
    machines: Machines
    request: Callable[[Batch], Request]
    plugin: bool = False
    """Devices are counted by NVIDIA's device plugin, and not published by its DRA driver."""


def policies(machines: Machines) -> list[Policy]:
    """Ours first."""
    every, whole = kinds(machines), kinds(uncut(machines))
    return [
        Policy(
            "tiers",
            "ours: firstAvailable tiers, cheapest first",
            machines,
            lambda batch: _tiers(batch, every),
        ),
        Policy(
            "tiers-by-turn",
            "the same tiers, by price × time of a turn",
            machines,
            lambda batch: _tiers(batch, every, by_turn=True),
        ),
        Policy(
            "exactly",
            "DRA, exactly one request: memory ≥ N",
            uncut(machines),
            lambda batch: _exactly(batch, whole),
        ),
        Policy(
            "plugin-any",
            "nvidia.com/gpu on any node with memory ≥ N",
            uncut(machines),
            lambda batch: _plugin(_enough(batch, whole)),
            plugin=True,
        ),
        Policy(
            "plugin-pool",
            "nvidia.com/gpu pinned to one pool per model: the cheapest GPU that fits",
            uncut(machines),
            lambda batch: _plugin(_cheapest(batch, whole)),
            plugin=True,
        ),
    ]


def _tiers(batch: Batch, devices: Sequence[Device], *, by_turn: bool = False) -> Request:
    found = plan(batch.model, batch.need, devices)
    if by_turn:

        def of_a_turn(tier: Tier) -> float:
            return max(c.price * batch.turn_seconds(c.device, c.count) for c in tier.choices)

        found = replace(found, tiers=tuple(sorted(found.tiers, key=of_a_turn)))
    wants = [
        Want(choice.device, choice.count, choice.aligned)
        for tier in found.tiers
        for choice in tier.choices
    ]
    return Request(wants, template=claim_template(batch.name, found))


def _exactly(batch: Batch, devices: Sequence[Device]) -> Request:
    wants, least = _enough(batch, devices)
    selector = f'device.capacity["{DRIVER}"].memory.compareTo(quantity("{least}Mi")) >= 0'
    asked = {
        "deviceClassName": DRIVER,
        "count": wants[0].count,
        "selectors": [{"cel": {"expression": selector}}],
    }
    requests = [{"name": "gpu", "exactly": asked}]
    template = {
        "metadata": {"name": batch.name},
        "spec": {"spec": {"devices": {"requests": requests}}},
    }
    return Request(wants, template=template)


def _plugin(enough: tuple[Sequence[Want], int | str]) -> Request:
    """By the labels of NVIDIA's feature discovery: memory in MiB, or the product."""
    wants, by = enough
    if isinstance(by, int):
        condition = {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [str(by - 1)]}
    else:
        condition = {"key": "nvidia.com/gpu.product", "operator": "In", "values": [by]}
    terms = [{"matchExpressions": [condition]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return Request(
        wants, limits={"nvidia.com/gpu": str(wants[0].count)}, affinity={"nodeAffinity": required}
    )


def _enough(batch: Batch, devices: Sequence[Device]) -> tuple[Sequence[Want], int]:
    """As few devices as hold the model, and the MiB that each has to have."""
    count, fitting = _fewest(batch, devices)
    least = min(
        int(memory(batch.model, batch.need, device, count).total / batch.need.utilization)
        for device in fitting
    )
    wants = [Want(device, count) for device in devices if device.memory >= least]
    return wants, -(-least // MIB)


def _cheapest(batch: Batch, devices: Sequence[Device]) -> tuple[Sequence[Want], str]:
    """As few devices as hold the model, of the cheapest kind, and its product."""
    count, fitting = _fewest(batch, devices)
    device = min(fitting, key=lambda device: device.price)
    return [Want(device, count)], device.products[0].replace(" ", "-")


def _fewest(batch: Batch, devices: Sequence[Device]) -> tuple[int, list[Device]]:
    by_count = defaultdict[int, list[Device]](list)
    for count in COUNTS:
        for device in devices:
            if can_share(batch.model, count) and fits(batch.model, batch.need, device, count):
                by_count[count].append(device)
    count = min(by_count)
    return count, by_count[count]
