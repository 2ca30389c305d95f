"""How quick a model is on some devices: tokens per second of a conversation, time to its first.

Belongs here: what bandwidth and FLOP/s allow. Does not belong here: queues, or what a server was
measured to do (`agents/served.py`).
"""

from dataclasses import dataclass

from agent_pipelines.gpu.devices import REACHED_FLOPS, Device
from agent_pipelines.gpu.memory import Need, kv_cache_bytes
from agent_pipelines.gpu.model import ModelShape, resolved_dtype

#: Quantisations that multiply in 8 bits where the device can; all others are unpacked to 16.
_EIGHT_BITS = ("fp8", "compressed-tensors", "modelopt", "fbgemm_fp8")


@dataclass(frozen=True)
class Speed:
    """What can be expected, with as many conversations at once as `Need` names, all at full length.

    Communication between devices is not in it.
    """

    tokens_per_second: float
    """Of each conversation."""
    ttft_ms: float
    """Of a request that nobody is served before."""

    def reaches(self, need: Need) -> bool:
        """Whether that is what is needed."""
        return self.tokens_per_second >= (need.tokens_per_second or 0.0) and (
            need.ttft_ms is None or self.ttft_ms <= need.ttft_ms
        )


def speed(shape: ModelShape, need: Need, device: Device, devices: int = 1) -> Speed:
    """What bandwidth and FLOP/s allow.

    Decoding reads the weights that a step uses and every conversation's KV cache once per token,
    and waits for nothing else (Pope et al. 2022, arXiv 2211.05102, section 2).
    """
    dtype = resolved_dtype(need.dtype, shape)
    weights = shape.weight_bytes(dtype) * shape.read_share(need.concurrency) / devices
    read = weights + kv_cache_bytes(shape, need, devices)
    per_second = device.reached_bandwidth / read
    flops = device.flops
    if shape.quantization in _EIGHT_BITS and device.fp8_flops:
        flops = device.fp8_flops
    prefill = prefill_flops(shape, need.prompt or need.tokens(shape))
    return Speed(per_second, 1000 * prefill / (flops * REACHED_FLOPS * devices))


def prefill_flops(shape: ModelShape, tokens: int) -> float:
    """Operations until the first token of a prompt of so many tokens.

    Two per active parameter and token (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), and for
    attention two products of n × n × width per layer, of which the causal half is computed
    (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
    """
    width = shape.heads * shape.head_dim
    in_window = min(tokens, shape.window) if shape.window_layers else 0
    attention = 2 * width * tokens * (shape.layers * tokens + 2 * shape.window_layers * in_window)
    return 2 * shape.active_parameters * tokens + attention
