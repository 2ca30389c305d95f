"""`claim`: the GPUs that a model needs, as a ResourceClaimTemplate with the arithmetic.

Belongs here: which model is meant, and what is printed. Does not belong here: the arithmetic
(`gpu`), or the YAML of a model server in `assets/` (`components/llm_claim.py`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Engine

from agent_pipelines.agents.batches import named
from agent_pipelines.agents.use import recorded_use
from agent_pipelines.errors import UserError
from agent_pipelines.gpu.advice import Advice, advise
from agent_pipelines.gpu.claims import claim_name, claim_template
from agent_pipelines.gpu.devices import DeviceConfig, known_devices
from agent_pipelines.gpu.hub import find_shape
from agent_pipelines.gpu.memory import Need
from agent_pipelines.gpu.model import ModelShape
from agent_pipelines.gpu.plan import Plan, plan


@dataclass(frozen=True)
class Asked:
    """What a person said, beside the model."""

    need: Mapping[str, Any]
    """Fields of `Need`, those that were said."""
    devices: Mapping[str, DeviceConfig]
    fleet: Mapping[str, int] | None


@dataclass(frozen=True)
class Subject:
    """A model that a claim is for, and what it is to do."""

    template: str
    shape: ModelShape
    need: Need
    plan: Callable[[Need], Plan]


def subject_of(model: str, assets: Path | None, asked: Asked) -> Subject:
    """A model server in `assets/`, the one of an agent there, a folder, or a model on the hub.

    Raises:
        UserError: it cannot be read, or is no vLLM of ours.
        UnavailableError: the hub does not answer.
    """
    if model.isidentifier() and not Path(model).is_dir():
        from agent_pipelines.components import llm_claim
        from agent_pipelines.loading import PACKAGED_ASSETS, load_assets

        loaded = load_assets(assets or PACKAGED_ASSETS)
        agent = loaded.agents.get(model)
        llm = loaded.llms.get(agent.config.llm if agent else model)
        if llm is not None:
            shape = llm_claim.shape_of(llm)
            return Subject(
                llm.template,
                shape,
                replace(llm_claim.need_of(llm), **asked.need),
                partial(llm_claim.plan_of, llm, shape, devices=asked.devices, fleet=asked.fleet),
            )
    shape, devices = find_shape(model), known_devices(asked.devices)
    return Subject(
        claim_name(Path(model).name),
        shape,
        Need(**asked.need),
        lambda need: plan(shape, need, devices, fleet=asked.fleet),
    )


def advice_of(engine: Engine, batch: str, subject: Subject) -> Advice:
    """What a batch's use of its model server says of what is asked for now.

    Raises:
        UserError: there is no such batch, or its server did not say what it used.
    """
    use = recorded_use(engine, batch)
    if use is None:
        raise UserError(
            f"what batch {batch} took of its model server is not on record",
            remedy="name a batch that a vLLM of this program answered; `agent-pipelines trace` "
            "shows the last one's id",
        )
    return advise(use, subject.shape, subject.need)


def agent_of(engine: Engine, batch: str) -> str:
    """The agent that a batch is of.

    Raises:
        UserError: there is no such batch.
    """
    found = named(engine, batch)
    if found is None:
        raise UserError(
            f"there is no batch {batch!r}", remedy="use the id that `batch` or `trace` printed"
        )
    return found.agent


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


def as_yaml(name: str, found: Plan, namespace: str | None, advice: Advice | None) -> str:
    """The template, the arithmetic as comments above it.

    Raises:
        UserError: that cannot be its name.
    """
    template = claim_template(name, found, namespace)
    told = (
        [
            f"{advice.verdict} than now" if advice.verdict != "as it is" else "as it is now",
            *advice.reasons,
        ]
        if advice
        else []
    )
    comments = "".join(f"# {line}\n" for line in (*told, *found.lines()))
    # Wide: an expression that is broken into lines is hard to read.
    return comments + yaml.safe_dump(template, sort_keys=False, width=4096)


def as_json(
    name: str, found: Plan, namespace: str | None, advice: Advice | None
) -> dict[str, object]:
    """The template, and the tiers and devices left out with their numbers, for a program.

    Raises:
        UserError: that cannot be its name.
    """
    told = (
        {
            "verdict": advice.verdict,
            "reasons": list(advice.reasons),
            "concurrency": advice.need.concurrency,
        }
        if advice
        else {}
    )
    return told | {
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
