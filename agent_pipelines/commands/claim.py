"""`claim`: the GPUs that a model needs, as a ResourceClaimTemplate with the arithmetic.

Belongs here: which model is meant, and what is printed. Does not belong here: the arithmetic
(`gpu`), or the YAML of a model server in `assets/` (`components/llm_claim.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from agent_pipelines.errors import UserError
from agent_pipelines.gpu.claims import claim_name, claim_template
from agent_pipelines.gpu.devices import DeviceConfig, known_devices
from agent_pipelines.gpu.hub import find_shape
from agent_pipelines.gpu.memory import Need
from agent_pipelines.gpu.plan import Plan, plan


@dataclass(frozen=True)
class Asked:
    """What a person said, beside the model."""

    need: Mapping[str, Any]
    """Fields of `Need`, those that were said."""
    devices: Mapping[str, DeviceConfig]
    fleet: Mapping[str, int] | None


def plan_for(model: str, assets: Path | None, asked: Asked) -> tuple[str, Plan]:
    """The template's name and what is asked for: for a model server in `assets/`, for the one of an
    agent there, for a folder, or for a model on the hub.

    Raises:
        UserError: it cannot be read, or no device can serve it.
        UnavailableError: the hub does not answer.
    """
    if model.isidentifier() and not Path(model).is_dir():
        from agent_pipelines.components.llm_claim import need_of, plan_of
        from agent_pipelines.loading import PACKAGED_ASSETS, load_assets

        loaded = load_assets(assets or PACKAGED_ASSETS)
        agent = loaded.agents.get(model)
        llm = loaded.llms.get(agent.config.llm if agent else model)
        if llm is not None:
            need = replace(need_of(llm), **asked.need)
            return llm.template, plan_of(llm, need, devices=asked.devices, fleet=asked.fleet)
    found = plan(
        find_shape(model), Need(**asked.need), known_devices(asked.devices), fleet=asked.fleet
    )
    return claim_name(Path(model).name), found


def read_devices(file: Path | None) -> Mapping[str, DeviceConfig]:
    """What a file says of devices: the `devices` of a claim's YAML, by itself.

    Raises:
        UserError: it cannot be read, or is not that.
    """
    if file is None:
        return {}
    try:
        return TypeAdapter(dict[str, DeviceConfig]).validate_python(
            yaml.safe_load(file.read_text())
        )
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise UserError(
            f"devices cannot be read from {file}: {error}",
            remedy="write it like `L4: {price: 0.7, measured_gb_s: 240}`, a line for each",
        ) from error


def read_fleet(said: Iterable[str]) -> Mapping[str, int] | None:
    """`L4=1`, or `L4` for as many as there may be.

    Raises:
        UserError: a number is none.
    """
    fleet = {}
    for entry in said:
        name, _, most = entry.partition("=")
        if not (most or "8").isdigit() or most == "0":
            raise UserError(
                f"--fleet {entry!r} has no number of devices",
                remedy="write how many of them one pod can get, such as L4=1",
            )
        fleet[name] = int(most or 8)
    return fleet or None


def as_yaml(name: str, found: Plan, namespace: str | None) -> str:
    """The template, the arithmetic as comments above it.

    Raises:
        UserError: that cannot be its name.
    """
    template = claim_template(name, found, namespace)
    comments = "".join(f"# {line}\n" for line in found.lines())
    # Wide: an expression that is broken into lines is hard to read.
    return comments + yaml.safe_dump(template, sort_keys=False, width=4096)


def as_json(name: str, found: Plan, namespace: str | None) -> dict[str, object]:
    """The template, and the tiers and devices left out with their numbers, for a program.

    Raises:
        UserError: that cannot be its name.
    """
    return {
        "template": claim_template(name, found, namespace),
        "tiers": [
            [
                {
                    "device": choice.device.name,
                    "count": choice.count,
                    "price": choice.price,
                    "memory_bytes_each": choice.memory.total,
                    "tokens_per_second": round(choice.speed.tokens_per_second, 1),
                    "ttft_ms": round(choice.speed.ttft_ms),
                }
                for choice in tier.choices
            ]
            for tier in found.tiers
        ],
        "left_out": {left.device.name: left.reason for left in found.left_out},
    }
