"""Memory that serving a model with vLLM takes on each device.

Belongs here: bytes of weights, KV cache, activations and what vLLM keeps beside them. Does not
belong here: which device has that much (`plan`), or how quick it is (`speed`).
"""

from dataclasses import dataclass

from agent_pipelines.errors import UserError
from agent_pipelines.gpu.devices import GIB, Device
from agent_pipelines.gpu.model import BYTES, ModelShape, resolved_dtype

#: What vLLM takes of a device where nothing else is said (vllm/config/cache.py, 0.32).
UTILIZATION = 0.92

#: Tokens in a block of the KV cache.
_BLOCK = 16

#: What the sampler holds per sequence and word of the vocabulary: logits in 32 bits, their sorted
#: copies and indices. Measured, of 1024 sequences: 4.76 GiB where the vocabulary has 128,256 words,
#: 5.64 where 151,936, 7.38 where 201,088, whatever the model's size and the number of devices.
#: Source: config_explorer/empirical-vllm-memory-results.md in github.com/llm-d/llm-d-benchmark.
_SAMPLER_BYTES = 39

#: Beside PyTorch's memory: CUDA's libraries, and NCCL's buffers where devices work together. From
#: the same: "non-torch memory" 0.13 GiB of one device, 0.55 GiB of each of two.
_ALONE, _TOGETHER = round(0.15 * GIB), round(0.6 * GIB)

#: CUDA graphs: from the same, 0.4 GiB of a model of 13 GiB, 1.0 of one of 64 GiB; with some room.
_GRAPHS, _GRAPHS_OF_WEIGHTS = GIB // 2, 1 / 64


@dataclass(frozen=True)
class Need:
    """What a model is to do, in the terms of vLLM's flags and of an agent's targets."""

    context: int | None = None
    """Tokens of one conversation (`--max-model-len`); None: what the model was made for."""
    concurrency: int = 1
    """Conversations of that length at once."""
    dtype: str = "auto"
    """`--dtype`: auto, bfloat16, float16, float32."""
    kv_dtype: str = "auto"
    """`--kv-cache-dtype`: auto (as it computes), fp8, …"""
    tokens_per_second: float | None = None
    """Of each conversation, once it has its first token."""
    ttft_ms: float | None = None
    """Milliseconds from a request to its first token, where nobody else is served first."""
    prompt: int | None = None
    """Tokens of a request that no prefix cache has; None: all of the context."""
    utilization: float = UTILIZATION
    """`--gpu-memory-utilization`."""

    def tokens(self, shape: ModelShape) -> int:
        """Of one conversation with this model."""
        return self.context or shape.context

    def kv_element_bytes(self, shape: ModelShape) -> int:
        """Bytes per element of the KV cache.

        Raises:
            UserError: it is no type of a KV cache.
        """
        if self.kv_dtype.startswith("fp8"):
            return 1
        asked = self.dtype if self.kv_dtype == "auto" else self.kv_dtype
        return BYTES[resolved_dtype(asked, shape)]


@dataclass(frozen=True)
class Memory:
    """Bytes that serving takes on each of some devices that share a model evenly."""

    weights: int
    kv_cache: int
    activations: int
    """Of the largest batch that vLLM tries out when it starts: the rest is the KV cache's."""
    runtime: int
    """CUDA graphs, libraries and communication."""

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.activations + self.runtime

    def __str__(self) -> str:
        parts = (
            (self.weights, "weights"),
            (self.kv_cache, "KV cache"),
            (self.activations, "activations"),
            (self.runtime, "CUDA graphs and libraries"),
        )
        said = " + ".join(f"{gib(n)} {what}" for n, what in parts)
        return f"{said} = {gib(self.total)} GiB"


def gib(n: float) -> str:
    """Bytes as GiB, without the unit."""
    return f"{n / GIB:.1f}"


def can_share(shape: ModelShape, devices: int) -> bool:
    """Whether that many devices can hold a model together (`--tensor-parallel-size`).

    As vLLM has it: the heads divide evenly, and so do the KV heads, or each is held by as many.
    """
    kv_heads = 1 if shape.latent else shape.kv_heads
    return shape.heads % devices == 0 and (kv_heads % devices == 0 or devices % kv_heads == 0)


def kv_bytes_per_token(shape: ModelShape, need: Need, devices: int = 1) -> int:
    """On each device, of one token in a layer that attends to all tokens, for all such layers.

    A key and a value per KV head (grouped heads: Ainslie et al. 2023, arXiv 2305.13245), of which a
    device has at least one. A compressed cache (MLA) lies on every device as a whole.
    """
    return shape.layers * _layer_bytes(shape, need, devices)


def kv_cache_bytes(shape: ModelShape, need: Need, devices: int = 1) -> int:
    """On each device, of all conversations at their full length."""
    tokens = -(-need.tokens(shape) // _BLOCK) * _BLOCK
    # Layers that attend to a window keep no more than it (vLLM's hybrid KV cache).
    windowed = min(tokens, shape.window + _BLOCK) if shape.window_layers else 0
    per_layer = _layer_bytes(shape, need, devices)
    state = shape.state_elements * BYTES[resolved_dtype(need.dtype, shape)] // devices
    each = (shape.layers * tokens + shape.window_layers * windowed) * per_layer + state
    return need.concurrency * each


def _layer_bytes(shape: ModelShape, need: Need, devices: int) -> int:
    heads = max(1, shape.kv_heads // devices)
    return need.kv_element_bytes(shape) * (shape.latent or 2 * heads * shape.head_dim)


def memory(shape: ModelShape, need: Need, device: Device, devices: int = 1) -> Memory:
    """What each of that many devices has to hold.

    Raises:
        UserError: a type of `need` does not exist.
    """
    dtype = resolved_dtype(need.dtype, shape)
    weights = -(-shape.weight_bytes(dtype) // devices)
    tokens, sequences = largest_batch(device)
    # A forward pass holds the residual stream and what surrounds it, and one layer's inner width.
    width = 4 * shape.hidden + 3 * shape.intermediate // devices
    if shape.experts:
        width = 4 * shape.hidden + shape.experts_per_token * (
            2 * shape.hidden + 3 * shape.intermediate // devices
        )
    return Memory(
        weights=weights,
        kv_cache=kv_cache_bytes(shape, need, devices),
        activations=max(
            tokens * width * BYTES[dtype], sequences * shape.vocabulary * _SAMPLER_BYTES
        ),
        runtime=(_TOGETHER if devices > 1 else _ALONE)
        + _GRAPHS
        + round(weights * _GRAPHS_OF_WEIGHTS),
    )


def largest_batch(device: Device) -> tuple[int, int]:
    """Tokens and sequences of the largest batch that vLLM's server prepares for on a device.

    Source: vllm/engine/arg_utils.py, 0.32, defaults of --max-num-batched-tokens and --max-num-seqs.
    """
    if device.memory >= 160 * GIB:
        return 16384, 1024
    if device.memory >= 70 * GIB and device.capability != (8, 0):
        return 8192, 1024
    return 2048, 256


def usable(device: Device, need: Need) -> int:
    """Bytes of a device that vLLM takes."""
    return int(device.memory * need.utilization)


def fits(shape: ModelShape, need: Need, device: Device, devices: int = 1) -> bool:
    """Whether that many of a device hold the model, and the conversations it is to have."""
    return memory(shape, need, device, devices).total <= usable(device, need)


def refuse_unless_fits(shape: ModelShape, need: Need, device: Device, devices: int = 1) -> None:
    """See that a model fits.

    Raises:
        UserError: it does not; the message has the arithmetic.
    """
    if not fits(shape, need, device, devices):
        raise UserError(
            f"{shape.name} does not fit on {count_of(device, devices)}: "
            f"{arithmetic(shape, need, device, devices)}",
            remedy="a smaller or quantised model, a shorter context, fewer conversations at once, "
            "an 8-bit KV cache (fp8), or larger or more devices (--tensor-parallel-size)",
        )


def arithmetic(shape: ModelShape, need: Need, device: Device, devices: int = 1) -> str:
    """Needed against usable, in words for a person."""
    each = " each" if devices > 1 else ""
    return (
        f"{memory(shape, need, device, devices)}{each}, of which {need.concurrency} × "
        f"{need.tokens(shape):,} tokens in the KV cache, against {need.utilization:.0%} of "
        f"{gib(device.memory)} = {gib(usable(device, need))} GiB"
    )


def count_of(device: Device, devices: int) -> str:
    """In words: one L4, 2 × L4."""
    return f"one {device.name}" if devices == 1 else f"{devices} × {device.name}"
