"""Which devices may serve a model, the cheapest first.

Belongs here: what is left of the catalogue, in which order, and why the rest is not. Does not
belong here: how a cluster is asked (`claims`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from agent_pipelines.errors import UserError
from agent_pipelines.gpu.devices import CATALOGUE, Device
from agent_pipelines.gpu.memory import (
    Memory,
    Need,
    arithmetic,
    can_share,
    count_of,
    gib,
    kv_bytes_per_token,
    memory,
    usable,
)
from agent_pipelines.gpu.model import ModelShape, resolved_dtype
from agent_pipelines.gpu.speed import Speed, speed

#: What a claim calls its devices.
REQUEST = "gpu"

#: How many alternatives a claim may have (resource.k8s.io/v1, FirstAvailableDeviceRequestMaxSize).
MOST_TIERS = 8

#: How many devices may share a model; a node seldom has more.
COUNTS = (1, 2, 4, 8)

#: The least compute capability of what a model computes in: of bfloat16 Ampere's, of 8-bit floats
#: Ada's; of anything else, what vLLM supports.
_LEAST, _BF16, _FP8 = (7, 5), (8, 0), (8, 9)


@dataclass(frozen=True)
class Choice:
    """So many of one device, and what they come to."""

    device: Device
    count: int
    memory: Memory
    """Of each."""
    speed: Speed
    least_memory: int
    """Bytes that each has to have, so that the share vLLM takes of it is enough."""

    @property
    def price(self) -> float:
        return self.device.price * self.count

    @property
    def aligned(self) -> bool:
        """Whether they have to be below one PCIe root, to reach each other without a detour.

        Two always. More are seldom found below one; those that NVSwitch joins need not be.
        """
        return self.count == 2 or (self.count > 2 and not self.device.nvswitch)

    def __str__(self) -> str:
        return count_of(self.device, self.count)


@dataclass(frozen=True)
class Tier:
    """Choices that a cluster may decide between: one, or where there are too many, similar ones."""

    choices: tuple[Choice, ...]

    @property
    def count(self) -> int:
        return self.choices[0].count

    @property
    def sliced(self) -> bool:
        """Whether they are slices of devices (MIG)."""
        return self.choices[0].device.profile is not None

    @property
    def aligned(self) -> bool:
        return self.choices[0].aligned

    @property
    def price(self) -> float:
        """Of the dearest."""
        return max(choice.price for choice in self.choices)

    @property
    def name(self) -> str:
        """A DNS label."""
        named = re.sub(r"[^a-z0-9]+", "-", self.choices[0].device.name.lower())
        label = named[:40].strip("-") or REQUEST
        return label + (f"-x{self.count}" if self.count > 1 else "")

    def __str__(self) -> str:
        return " or ".join(map(str, self.choices))


@dataclass(frozen=True)
class LeftOut:
    """A device that is not asked for, and why."""

    device: Device
    reason: str


@dataclass(frozen=True)
class Plan:
    """Which devices to ask for, in order."""

    shape: ModelShape
    need: Need
    tiers: tuple[Tier, ...]
    left_out: tuple[LeftOut, ...]
    devices: tuple[Device, ...]
    """All that were looked at."""
    selectors: tuple[str, ...]
    """CEL that every device has to satisfy as well."""

    def lines(self) -> list[str]:
        """The arithmetic, for a person."""
        shape, need = self.shape, self.need
        first = self.tiers[0].choices[0]
        told = [
            f"{shape.name}: {shape.parameters / 1e9:.1f} billion parameters, computed in "
            f"{resolved_dtype(need.dtype, shape)}"
            + (f", quantised as {shape.quantization}" if shape.quantization else ""),
            f"KV cache: {kv_bytes_per_token(shape, need) / 1024:,.0f} KiB per token"
            + (
                f", and a window of {shape.window:,} tokens in {shape.window_layers} layers"
                if shape.window_layers
                else ""
            )
            + f"; {need.concurrency} × {need.tokens(shape):,} tokens",
            f"on {first}: {arithmetic(shape, need, first.device, first.count)}",
        ]
        wanted = [
            *([f"{need.tokens_per_second:g} tokens/s"] if need.tokens_per_second else []),
            *([f"the first token within {need.ttft_ms:g} ms"] if need.ttft_ms else []),
        ]
        told += [f"wanted of each conversation: {' and '.join(wanted)}"] if wanted else []
        for number, tier in enumerate(self.tiers, start=1):
            for choice in tier.choices:
                told.append(
                    f"{number}. {choice}, price {choice.price:g}: {gib(choice.memory.total)} of "
                    f"{gib(usable(choice.device, need))} GiB"
                    + (" each" if choice.count > 1 else "")
                    + f", {choice.speed.tokens_per_second:,.0f} tokens/s, first token after "
                    f"{choice.speed.ttft_ms:,.0f} ms"
                )
        return told + [f"not {left.device.name}: {left.reason}" for left in self.left_out]


def plan(
    shape: ModelShape,
    need: Need,
    devices: Sequence[Device] = tuple(CATALOGUE.values()),
    *,
    fleet: Mapping[str, int] | None = None,
    tensor_parallel: int | None = None,
    selectors: Sequence[str] = (),
) -> Plan:
    """Find the devices that hold a model and are quick enough, and order them by price.

    Args:
        devices: that are known.
        fleet: which of them a cluster has, and how many of each a pod can have at most; None: any.
        tensor_parallel: so many share the model, and no other number.
        selectors: CEL that every device has to satisfy as well.

    Raises:
        UserError: none can serve it; the message has the arithmetic. Or the fleet has a device that
            is not known.
    """
    in_fleet = _in_fleet(devices, fleet)
    found, left_out = list[Choice](), list[LeftOut]()
    for device, most in in_fleet:
        counts = _counts(device, most, tensor_parallel)
        choice = _choose(shape, need, device, counts)
        if isinstance(choice, Choice):
            found.append(choice)
        else:
            left_out.append(LeftOut(device, choice))
    if not found:
        largest = max(left_out, key=lambda left: left.device.memory)
        most = max(_counts(largest.device, dict(in_fleet)[largest.device], tensor_parallel) or [1])
        raise UserError(
            f"{shape.name} cannot be served by {_any_of(in_fleet)}. "
            f"{largest.device.name}: {largest.reason}. On {count_of(largest.device, most)}: "
            f"{arithmetic(shape, need, largest.device, most)}",
            remedy="a smaller or quantised model, a shorter context, fewer conversations at once, "
            "an 8-bit KV cache (fp8), a humbler target, or larger devices",
        )
    found.sort(key=lambda choice: (choice.price, choice.device.memory * choice.count))
    tiers = _at_most_eight([Tier((choice,)) for choice in found])
    asked = {choice.device for tier in tiers for choice in tier.choices}
    left_out += [
        LeftOut(choice.device, f"dearer than {MOST_TIERS} others, and a claim has no more")
        for choice in found
        if choice.device not in asked
    ]
    looked_at = tuple(device for device, _ in in_fleet)
    return Plan(shape, need, tuple(tiers), tuple(left_out), looked_at, tuple(selectors))


def _in_fleet(
    devices: Sequence[Device], fleet: Mapping[str, int] | None
) -> list[tuple[Device, int]]:
    """The devices that may be asked for, and how many of each at most."""
    if fleet is None:
        return [(device, max(COUNTS)) for device in devices]
    known = {device.name: device for device in devices}
    if unknown := [name for name in fleet if name not in known]:
        raise UserError(
            f"device {unknown[0]!r} of the fleet is not known",
            remedy=f"describe it in `devices`, or name one of {', '.join(known)}",
        )
    return [(known[name], most) for name, most in fleet.items()]


def _any_of(fleet: Sequence[tuple[Device, int]]) -> str:
    """Them in words: up to 4 × L4; any of 24 devices."""
    if len(fleet) > 1:
        return f"any of {len(fleet)} devices"
    ((device, most),) = fleet
    return ("up to " if most > 1 else "") + count_of(device, most)


def _choose(shape: ModelShape, need: Need, device: Device, counts: Sequence[int]) -> Choice | str:
    """The fewest of a device that serve the model; else why none do."""
    least, what = least_capability(shape, need)
    if device.capability < least:
        return f"compute capability {_dotted(device.capability)}, and {what} takes {_dotted(least)}"
    reason = "slices of a device do not share a model" if not counts else ""
    for count in counts:
        if not can_share(shape, count):
            reason = reason or f"its {shape.heads} heads cannot be shared by {count}"
            continue
        held = memory(shape, need, device, count)
        if held.total > usable(device, need):
            each = f" on each of {count}" if count > 1 else ""
            reason = (
                f"too small: {gib(held.total)} GiB{each}, and vLLM may take "
                f"{gib(usable(device, need))}"
            )
            continue
        quick = speed(shape, need, device, count)
        if not quick.reaches(need):
            reason = (
                f"too slow: {count_of(device, count)} would give {quick.tokens_per_second:,.1f} "
                f"tokens/s, the first after {quick.ttft_ms:,.0f} ms"
            )
            continue
        return Choice(device, count, held, quick, int(held.total / need.utilization))
    return reason


def _counts(device: Device, most: int, tensor_parallel: int | None) -> list[int]:
    """How many of a device may share a model: of slices, which do not reach each other, one."""
    asked = COUNTS if tensor_parallel is None else (tensor_parallel,)
    return [n for n in asked if n <= (1 if device.profile else most)]


def least_capability(shape: ModelShape, need: Need) -> tuple[tuple[int, int], str]:
    """The compute capability that a model takes, and what of it takes that."""
    if shape.quantization == "fp8":
        return _FP8, "its 8-bit weights"
    if need.kv_dtype.startswith("fp8"):
        return _FP8, "an 8-bit KV cache"
    dtype = resolved_dtype(need.dtype, shape)
    return (_BF16, dtype) if dtype == "bfloat16" else (_LEAST, "vLLM")


def _at_most_eight(tiers: list[Tier]) -> list[Tier]:
    """As many tiers as a claim may have, in the same order.

    Two become one, within which nothing is preferred: those that differ least in price, and rather
    those that are seldom come to. The cheaper one is then asked for as late as the dearer one.
    Where they do not differ at all they are one in any case. What remains too many is cut off at
    the dear end.
    """
    while True:
        losses = {
            (one, other): _loss(tiers, one, other)
            for one, other in combinations(range(len(tiers)), 2)
            if _alike(tiers[one], tiers[other])
        }
        pair = min(losses, key=lambda pair: losses[pair], default=None)
        if pair is None or (len(tiers) <= MOST_TIERS and any(losses[pair])):
            return tiers[:MOST_TIERS]
        one, other = pair
        tiers[other] = Tier(tiers[one].choices + tiers[other].choices)
        del tiers[one]


def _alike(one: Tier, other: Tier) -> bool:
    """Whether one request can stand for both."""
    return (one.count, one.sliced, one.aligned) == (other.count, other.sliced, other.aligned)


def _loss(tiers: Sequence[Tier], one: int, other: int) -> tuple[float, float]:
    """What is given up where two are one: (in price, in memory), 0 where they do not differ."""
    choices = tiers[one].choices + tiers[other].choices
    prices = [choice.price for choice in choices]
    memories = [choice.device.memory for choice in choices]
    return (max(prices) / min(prices) - 1) / (one + 1), max(memories) / min(memories) - 1


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
