"""Whether a model has room on the GPUs of this machine, told before vLLM is started.

Belongs here: what is there against what flags and the model's files say. Does not belong here: the
arithmetic (`gpu`), or memory of a machine without a GPU (`models`).
"""

import logging
from collections.abc import Sequence

from agent_pipelines.errors import UserError
from agent_pipelines.gpu.devices import Device
from agent_pipelines.gpu.hub import find_shape
from agent_pipelines.gpu.memory import refuse_unless_fits
from agent_pipelines.local import vllm

#: Flags with which weights or KV cache lie elsewhere, or are others than the model's files say.
_CHANGES_WHAT_IS_HELD = (
    *("--quantization", "-q", "--cpu-offload-gb", "--pipeline-parallel-size", "-pp"),
    *("--load-format", "--kv-cache-memory-bytes", "--hf-overrides"),
)

logger = logging.getLogger(__name__)


def refuse_what_cannot_fit(
    model: str,
    devices: Sequence[Device],
    *,
    arguments: Sequence[str] = (),
    context: int | None,
    sharing: int = 1,
) -> None:
    """See that the model and one conversation have room on the smallest of these devices.

    Nothing is said where nobody can tell: without devices, for the driver does not tell of them;
    where the model's files cannot be read; or where flags change what is held.

    Args:
        arguments: vLLM's flags.
        context: tokens of a conversation; None: what the model was made for.
        sharing: so many devices share the model, where flags do not say.

    Raises:
        UserError: they do not; the message has the arithmetic.
    """
    if not devices or vllm.flag(arguments, *_CHANGES_WHAT_IS_HELD) is not None:
        return
    need = vllm.need(arguments, context=context)
    try:
        shape = find_shape(model)
    except UserError as error:
        logger.info("whether %s fits cannot be told: %s", model, error.message)
        return
    smallest = min(devices, key=lambda device: device.memory)
    refuse_unless_fits(shape, need, smallest, vllm.tensor_parallel(arguments) or sharing)
