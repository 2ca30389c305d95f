"""A plan as a ResourceClaimTemplate, which makes every pod that names it a claim of its own.

Belongs here: requests, CEL selectors and names as resource.k8s.io/v1 has them. Does not belong
here: which devices are asked for (`plan`), or who names the template.

Every device of NVIDIA's DRA driver has the attributes that are compared here; of one without them
the scheduler would report an error, and not look further:
https://github.com/kubernetes-sigs/dra-driver-nvidia-gpu/blob/main/cmd/gpu-kubelet-plugin/deviceinfo.go
"""

import json
import re
from collections.abc import Iterator

from agent_pipelines.errors import UserError
from agent_pipelines.gpu.devices import MIB
from agent_pipelines.gpu.plan import REQUEST, Choice, Plan, Tier

_DRIVER = "gpu.nvidia.com"
_WHOLE_CLASS, _SLICE_CLASS = "gpu.nvidia.com", "mig.nvidia.com"

#: RFC 1123, as Kubernetes takes it for names of objects.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def claim_name(llm: str) -> str:
    """The name of the template of a model server in `assets/`, or of a model."""
    return ("llm-" + re.sub(r"[^a-z0-9]+", "-", llm.lower()).strip("-"))[:63].rstrip("-")


def claim_template(name: str, plan: Plan, namespace: str | None = None) -> dict[str, object]:
    """The template, as plain data.

    From Kubernetes 1.35 on the scheduler takes the first tier that any node has free; before, the
    first that the node has which it looks at.

    Raises:
        UserError: that cannot be the name of an object.
    """
    for field, value in (("name", name), ("namespace", namespace)):
        if value is not None and not _NAME.fullmatch(value):
            raise UserError(
                f"{field} {value!r} is none that Kubernetes takes",
                remedy="use lower-case letters, digits and -, at most 63",
            )
    tiers = dict(_named(plan.tiers))
    devices: dict[str, object] = {
        "requests": [
            {
                "name": REQUEST,
                "firstAvailable": [
                    {
                        "name": label,
                        "deviceClassName": _SLICE_CLASS if tier.sliced else _WHOLE_CLASS,
                        "count": tier.count,
                        "selectors": [
                            {"cel": {"expression": expression}}
                            for expression in (*_selectors(tier, plan), *plan.selectors)
                        ],
                    }
                    for label, tier in tiers.items()
                ],
            }
        ]
    }
    if aligned := [f"{REQUEST}/{label}" for label, tier in tiers.items() if tier.aligned]:
        # One each: a single one would have to hold for all of them together.
        devices["constraints"] = [
            {"requests": [request], "matchAttribute": "resource.kubernetes.io/pcieRoot"}
            for request in aligned
        ]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        "spec": {"spec": {"devices": devices}},
    }


def _named(tiers: tuple[Tier, ...]) -> Iterator[tuple[str, Tier]]:
    taken = set[str]()
    for number, tier in enumerate(tiers, start=1):
        label = tier.name if tier.name not in taken else f"{tier.name}-{number}"
        taken.add(label)
        yield label, tier


def _selectors(tier: Tier, plan: Plan) -> list[str]:
    """CEL that only a tier's devices satisfy, and others that are like them and nobody knows.

    By memory and compute capability, and by name only where these are not enough: a card that is
    in no catalogue is asked for like the one that it resembles.
    """
    found = {" && ".join(_conditions(choice, tier, plan)): None for choice in tier.choices}
    if len(found) == 1:
        (only,) = found
        return only.split(" && ")
    return [" || ".join(f"({condition})" for condition in found)]


def _conditions(choice: Choice, tier: Tier, plan: Plan) -> Iterator[str]:
    device = choice.device
    attributes, capacity = (f'device.{kind}["{_DRIVER}"]' for kind in ("attributes", "capacity"))
    low, high = device.memory_band
    low = max(low, choice.least_memory)
    yield f'{capacity}.memory.compareTo(quantity("{-(-low // MIB)}Mi")) >= 0'
    yield f'{capacity}.memory.compareTo(quantity("{-(-high // MIB)}Mi")) < 0'
    major, minor = device.capability
    capability = f"{attributes}.cudaComputeCapability"
    yield f'{capability}.compareTo(semver("{major}.{minor}.0")) == 0'
    if device.profile:
        yield f"{attributes}.profile == {json.dumps(device.profile)}"
    asked = {chosen.device for chosen in tier.choices}
    others = [o for o in plan.devices if o not in asked and device.resembles(o)]
    if products := [product for other in others for product in other.products]:
        yield f"!({attributes}.productName in {json.dumps(products)})"
