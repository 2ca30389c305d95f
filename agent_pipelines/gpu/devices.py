"""The devices that a claim may ask for: memory, bandwidth, compute and price of each.

Belongs here: published figures, and what a user's YAML changes of them. Does not belong here: what
a model needs (`memory`, `speed`) or which device it gets (`plan`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agent_pipelines.errors import UserError

MIB, GIB = 1 << 20, 1 << 30

#: The share of the published bandwidth that decoding reaches, and of the published FLOP/s that
#: prefill does: 60 to 85% of the former (as "model bandwidth utilization", see
#: https://www.databricks.com/blog/llm-inference-performance-engineering-best-practices) and about
#: half of the latter are usual. A measured figure takes the place of the former.
REACHED_BANDWIDTH, REACHED_FLOPS = 0.7, 0.5


@dataclass(frozen=True)
class Device:
    """One kind of GPU, or of slice of one, as the DRA driver of NVIDIA publishes it."""

    name: str
    """What YAML and people call it."""
    memory: int
    """Bytes, as NVML reports them: a little under the label."""
    bandwidth: float
    """Published bytes per second between memory and compute."""
    flops: float
    """Published dense 16-bit FLOP/s of the tensor cores."""
    capability: tuple[int, int]
    """CUDA compute capability."""
    price: float
    """Of one per hour; what counts is how they compare."""
    products: tuple[str, ...] = ()
    """The names that NVML knows it by; by them it is told from others of its memory and kind."""
    profile: str | None = None
    """The MIG profile of a slice."""
    fp8_flops: float | None = None
    """Published dense 8-bit FLOP/s; None: it has none."""
    nvswitch: bool = False
    """Any number of them in a machine are joined at full speed."""
    measured_bandwidth: float | None = None
    """Bytes per second that decoding was seen to reach."""

    @property
    def reached_bandwidth(self) -> float:
        """Bytes per second that decoding can be expected to read."""
        return self.measured_bandwidth or self.bandwidth * REACHED_BANDWIDTH

    @property
    def memory_band(self) -> tuple[int, int]:
        """Bytes, first to excluded: what others that carry its label may report.

        8% to either side: drivers, ECC and vendors differ by less, and the labels of one compute
        capability by more.
        """
        return int(self.memory * 0.92), int(self.memory * 1.08)

    def resembles(self, other: "Device") -> bool:
        """Whether memory and compute capability alone would take the other for one of these."""
        low, high = self.memory_band
        return (
            self.profile == other.profile
            and self.capability == other.capability
            and low <= other.memory < high
        )


#: Name, products, MiB, GB/s, dense TFLOPS of 16 and of 8 bits, capability, price, NVSwitch.
#: Bandwidth and TFLOPS (half of what is published "with sparsity"): NVIDIA's data sheet of each
#: product; where several go by one name, of the slower one. Memory: what nvidia-smi reports.
#: Prices: about what clouds asked per hour in 2025, as multiples of a T4.
_WHOLE: tuple[tuple[str, str, int, int, int, int, tuple[int, int], float, bool], ...] = (
    ("T4", "Tesla T4", 15360, 300, 65, 0, (7, 5), 1.0, False),
    ("L4", "NVIDIA L4", 23034, 300, 121, 242, (8, 9), 1.6, False),
    ("A10", "NVIDIA A10", 23028, 600, 125, 0, (8, 6), 2.0, False),
    ("A10G", "NVIDIA A10G", 23028, 600, 70, 0, (8, 6), 2.0, False),
    ("L40S", "NVIDIA L40S", 46068, 864, 362, 733, (8, 9), 3.6, False),
    (
        "A100-40",
        "NVIDIA A100-SXM4-40GB|NVIDIA A100-PCIE-40GB",
        40960,
        1555,
        312,
        0,
        (8, 0),
        4.4,
        True,
    ),
    (
        "A100-80",
        "NVIDIA A100-SXM4-80GB|NVIDIA A100 80GB PCIe",
        81920,
        1935,
        312,
        0,
        (8, 0),
        6.0,
        True,
    ),
    ("H100-PCIe", "NVIDIA H100 PCIe", 81559, 2000, 756, 1513, (9, 0), 8.0, False),
    ("H100-SXM", "NVIDIA H100 80GB HBM3", 81559, 3350, 989, 1979, (9, 0), 10.0, True),
    ("H100-NVL", "NVIDIA H100 NVL", 95830, 3900, 835, 1671, (9, 0), 9.0, False),
    ("H200", "NVIDIA H200", 143771, 4800, 989, 1979, (9, 0), 12.0, True),
    ("B200", "NVIDIA B200", 183359, 8000, 2250, 4500, (10, 0), 18.0, True),
)

#: Of which whole device, profile, MiB, eighths of its memory, of its compute, how many it is cut
#: into. MiB as `nvidia-smi mig -lgip` has it; a slice has its eighths of the bandwidth. Source:
#: https://docs.nvidia.com/datacenter/tesla/mig-user-guide/supported-mig-profiles.html
_SLICES: tuple[tuple[str, str, int, int, int, int], ...] = (
    ("A100-40", "2g.10gb", 9856, 2, 2, 3),
    ("A100-40", "3g.20gb", 19968, 4, 3, 2),
    ("A100-80", "1g.10gb", 9728, 1, 1, 7),
    ("A100-80", "2g.20gb", 19968, 2, 2, 3),
    ("A100-80", "3g.40gb", 40192, 4, 3, 2),
    ("H100-PCIe", "1g.10gb", 9856, 1, 1, 7),
    ("H100-PCIe", "1g.20gb", 19968, 2, 1, 4),
    ("H100-PCIe", "2g.20gb", 19968, 2, 2, 3),
    ("H100-PCIe", "3g.40gb", 40192, 4, 3, 2),
    ("H200", "1g.18gb", 16384, 1, 1, 7),
    ("H200", "2g.35gb", 33280, 2, 2, 3),
    ("H200", "3g.71gb", 71424, 4, 3, 2),
)


def _whole() -> Mapping[str, Device]:
    return {
        name: Device(
            name=name,
            memory=mib * MIB,
            bandwidth=gb_s * 1e9,
            flops=tflops * 1e12,
            capability=capability,
            price=price,
            products=tuple(products.split("|")),
            fp8_flops=fp8 * 1e12 or None,
            nvswitch=nvswitch,
        )
        for name, products, mib, gb_s, tflops, fp8, capability, price, nvswitch in _WHOLE
    }


def _slice(whole: Device, profile: str, mib: int, memory: int, compute: int, of: int) -> Device:
    return replace(
        whole,
        name=f"{whole.name.removesuffix('-PCIe')}-{profile}",
        memory=mib * MIB,
        bandwidth=whole.bandwidth * memory / 8,
        flops=whole.flops * compute / 8,
        fp8_flops=whole.fp8_flops and whole.fp8_flops * compute / 8,
        price=round(whole.price / of, 2),
        products=(),
        profile=profile,
        nvswitch=False,
    )


#: Every device that is known without being told; a slice's price is its share of the whole one's.
CATALOGUE: Mapping[str, Device] = {
    device.name: device
    for device in (
        *_whole().values(),
        *(_slice(_whole()[name], *rest) for name, *rest in _SLICES),  # type: ignore[arg-type]
    )
}


class DeviceConfig(BaseModel):
    """What YAML says of a device: of one in the catalogue what is to change, of another all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory: str | None = Field(
        default=None, description="As `nvidia-smi` reports it, such as 24564Mi."
    )
    bandwidth_gb_s: float | None = Field(default=None, gt=0, description="Published.")
    measured_gb_s: float | None = Field(
        default=None, gt=0, description="What decoding was seen to reach; counts instead."
    )
    tflops: float | None = Field(default=None, gt=0, description="Published, dense, 16 bits.")
    fp8_tflops: float | None = Field(default=None, gt=0, description="Published, dense, 8 bits.")
    compute_capability: str | None = Field(
        default=None, pattern=r"^\d+\.\d+$", description="CUDA's, such as '8.9'."
    )
    price: float | None = Field(
        default=None, gt=0, description="Of one per hour, or any weight: the cheapest comes first."
    )
    products: tuple[str, ...] | None = Field(
        default=None, description="Its names in `nvidia-smi -L`."
    )
    profile: str | None = Field(default=None, description="MIG profile, such as 1g.10gb.")
    nvswitch: bool | None = Field(
        default=None,
        description="Whether all of a machine are joined at full speed.",
    )

    @field_validator("memory")
    @classmethod
    def _is_a_quantity(cls, memory: str | None) -> str | None:
        if memory is not None and not re.fullmatch(r"[1-9]\d*[MG]i", memory):
            raise ValueError(f"{memory!r} is no amount of memory; write 24564Mi or 24Gi")
        return memory

    def changed(self, name: str, device: Device | None) -> Device:
        """The device with what is said here.

        Raises:
            UserError: it is new, and something of it is missing.
        """
        figures: dict[str, Any] = {
            "memory": self.memory and _bytes(self.memory),
            "bandwidth": self.bandwidth_gb_s and self.bandwidth_gb_s * 1e9,
            "measured_bandwidth": self.measured_gb_s and self.measured_gb_s * 1e9,
            "flops": self.tflops and self.tflops * 1e12,
            "fp8_flops": self.fp8_tflops and self.fp8_tflops * 1e12,
            "capability": self.compute_capability and _version(self.compute_capability),
            "price": self.price,
            "products": self.products,
            "profile": self.profile,
            "nvswitch": self.nvswitch,
        }
        said = {field: value for field, value in figures.items() if value is not None}
        if device is not None:
            return replace(device, **said)
        needed = ("memory", "bandwidth_gb_s", "tflops", "compute_capability", "price")
        missing = [field for field in needed if getattr(self, field) is None]
        if missing:
            raise UserError(
                f"device {name!r} is not in the catalogue, and lacks {', '.join(missing)}",
                remedy=f"say it, or name one of {', '.join(CATALOGUE)}",
            )
        return Device(name=name, **said)


def known_devices(changes: Mapping[str, DeviceConfig]) -> tuple[Device, ...]:
    """The catalogue with what a user says of its devices, and with the user's own.

    Raises:
        UserError: a device is new, and something of it is missing.
    """
    return tuple(
        {
            **CATALOGUE,
            **{name: said.changed(name, CATALOGUE.get(name)) for name, said in changes.items()},
        }.values()
    )


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * (GIB if quantity.endswith("Gi") else MIB)


def _version(capability: str) -> tuple[int, int]:
    major, minor = capability.split(".")
    return int(major), int(minor)
