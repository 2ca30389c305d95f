"""Which GPUs a model server of a run's own asks its cluster for.

Belongs here: YAML → plan. Does not belong here: the YAML's fields (`llm_config.py`), the arithmetic
(`gpu`), or who puts the claim into a run's pod.
"""

from collections.abc import Mapping
from dataclasses import replace

from agent_pipelines.components.llm import LlmComponent
from agent_pipelines.components.llm_config import ClaimConfig, SpawnConfig
from agent_pipelines.errors import UserError
from agent_pipelines.gpu.devices import DeviceConfig, known_devices
from agent_pipelines.gpu.hub import find_shape
from agent_pipelines.gpu.memory import Need
from agent_pipelines.gpu.model import ModelShape
from agent_pipelines.gpu.plan import Plan, plan
from agent_pipelines.local import vllm
from agent_pipelines.settings import Settings


def plan_of(
    llm: LlmComponent,
    shape: ModelShape,
    need: Need,
    *,
    devices: Mapping[str, DeviceConfig] | None = None,
    fleet: Mapping[str, int] | None = None,
) -> Plan:
    """The devices that are asked for, in order.

    Args:
        shape: see `shape_of`.
        need: see `need_of`.
        devices: more than its YAML says, or instead.
        fleet: instead of its YAML's.

    Raises:
        UserError: it is no vLLM of ours, or no device can serve it.
    """
    server, claim = _spawned(llm)
    return plan(
        shape,
        need,
        known_devices({**claim.devices, **(devices or {})}),
        fleet=fleet or claim.fleet,
        tensor_parallel=vllm.tensor_parallel(server.arguments),
        selectors=claim.selectors,
    )


def need_of(llm: LlmComponent) -> Need:
    """What its model is to do.

    Raises:
        UserError: it is no vLLM of ours, or a flag has a value that vLLM does not take.
    """
    server, claim = _spawned(llm)
    said = vllm.need(server.arguments, context=server.context, concurrency=claim.concurrency)
    return replace(
        said,
        tokens_per_second=claim.tokens_per_second,
        ttft_ms=claim.ttft_ms,
        prompt=claim.prompt,
    )


def shape_of(llm: LlmComponent) -> ModelShape:
    """The numbers of its model.

    Raises:
        UserError: it names none, or it cannot be read.
        UnavailableError: the hub does not say what it is like.
    """
    spawn = llm.resource.spawn
    model = (spawn and spawn.model) or Settings().llm_model
    if model is None:
        raise UserError(
            f"llm {llm.name} names no model to make a claim for",
            remedy="name it as `model` in its YAML, or as LLM_MODEL",
        )
    return find_shape(model)


def _spawned(llm: LlmComponent) -> tuple[SpawnConfig, ClaimConfig]:
    server = llm.config.server
    if not isinstance(server, SpawnConfig):
        raise UserError(
            f"llm {llm.name} is a server that somebody else runs: it takes no GPU of ours",
            remedy="for a vLLM of a run's own use `server: {kind: spawn, model: …}`",
        )
    return server, server.claim or ClaimConfig()
