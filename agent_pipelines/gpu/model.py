"""The numbers of a model that decide what it takes, from its config.json and its weights' headers.

Belongs here: reading them, from a folder. Does not belong here: the hub (`hub`), or what follows
from the numbers (`memory`, `speed`).
"""

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_pipelines.errors import UserError

#: Bytes per element of the types that a model computes in.
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

#: As vLLM's `--dtype` and a config.json name them as well.
_ALIASES = {"half": "float16", "float": "float32", "torch.bfloat16": "bfloat16"}

#: Types in safetensors headers that are loaded as whatever the model computes in; bytes per element
#: of the others, where it is not one.
_FLOATS = ("F64", "F32", "F16", "BF16")
_SIZES = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}

#: What config.json calls the number of experts, and a layer's width within one.
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts")
_EXPERT_WIDTHS = ("moe_intermediate_size", "intermediate_size")

#: Layers that hold a state of fixed size instead of a KV cache.
_RECURRENT = "linear_attention"


@dataclass(frozen=True)
class Tensor:
    """One entry of a safetensors header."""

    name: str
    dtype: str
    """As the format has it: BF16, F8_E4M3, I32, …"""
    elements: int


@dataclass(frozen=True)
class ModelShape:
    """A decoder-only transformer in numbers."""

    name: str
    layers: int
    """That attend to all tokens before."""
    window_layers: int
    """That attend to the last `window` tokens only."""
    window: int
    heads: int
    kv_heads: int
    head_dim: int
    latent: int
    """Elements per token and layer of a compressed KV cache (MLA); 0: it is not compressed."""
    state_elements: int
    """Of the recurrent layers together, per sequence."""
    hidden: int
    intermediate: int
    """Width of a feed-forward layer: of one that is not split into experts, or of one expert."""
    vocabulary: int
    context: int
    """Tokens of a sequence that it was made for."""
    dtype: str
    """What it computes in where nothing else is asked for."""
    quantization: str | None
    """The method of config.json, such as fp8 or awq."""
    float_elements: int
    """Of tensors that are loaded in whatever type it computes in."""
    fixed_bytes: int
    """Of all other tensors, which are loaded as they are."""
    parameters: int
    expert_parameters: int
    """Those of them that lie in routed experts."""
    expert_share: float
    """The part of the weights' bytes that lies there."""
    experts: int
    """Routed ones per layer; 0: none."""
    experts_per_token: int

    def weight_bytes(self, dtype: str) -> int:
        """All weights, where it computes in this type."""
        return self.float_elements * BYTES[dtype] + self.fixed_bytes

    @property
    def active_parameters(self) -> float:
        """Those that one token uses."""
        if not self.experts:
            return self.parameters
        idle = 1 - self.experts_per_token / self.experts
        return self.parameters - idle * self.expert_parameters

    def read_share(self, sequences: int) -> float:
        """The part of the weights' bytes that a step of that many sequences reads.

        Each of n tokens picks k of E experts; taken as independent and even, 1 - (1 - k/E)ⁿ of them
        are picked by one at least.
        """
        if not self.experts:
            return 1.0
        touched = 1 - (1 - self.experts_per_token / self.experts) ** sequences
        return 1 - self.expert_share * (1 - touched)


def resolved_dtype(asked: str, shape: ModelShape) -> str:
    """What a model computes in, where `--dtype` asks for this.

    As vLLM has it: `auto` is the type of the weights, and 16 bits where that is float32.

    Raises:
        UserError: it is no type to compute in.
    """
    if asked == "auto":
        return "bfloat16" if shape.dtype == "float32" else shape.dtype
    dtype = _ALIASES.get(asked, asked)
    if dtype not in BYTES:
        raise UserError(
            f"dtype {asked!r} is none that a model computes in",
            remedy=f"use auto, {', '.join(BYTES)}; quantised weights are a property of the model",
        )
    return dtype


def read_shape(folder: Path, name: str | None = None) -> ModelShape:
    """Read a model folder: config.json and *.safetensors, headers only.

    Args:
        name: the model's; default: the folder's path.

    Raises:
        UserError: the folder is not a model that can be read this way.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        index = folder / "model.safetensors.index.json"
        if index.exists():
            named = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            files = [folder / name for name in named]
        else:
            files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError("no *.safetensors in it")
        return shape_of(name or str(folder), config, (t for file in files for t in _header(file)))
    except (OSError, ValueError, KeyError, struct.error) as error:
        said = f"no {error} in its config.json" if isinstance(error, KeyError) else error
        raise UserError(
            f"model folder {folder} cannot be read: {said}",
            remedy="name a folder with config.json and *.safetensors of a decoder-only model",
        ) from error


def _header(file: Path) -> Iterator[Tensor]:
    """The format: eight bytes of header length, little-endian, then the header as JSON.

    Source: https://huggingface.co/docs/safetensors/index#format
    """
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, Any] = json.loads(opened.read(length))
    for name, tensor in header.items():
        if name != "__metadata__":
            yield Tensor(name, tensor["dtype"], math.prod(tensor["shape"]))


def shape_of(name: str, config: Mapping[str, Any], tensors: Iterable[Tensor]) -> ModelShape:
    """The numbers of a model.

    Raises:
        KeyError: config.json lacks what every decoder-only model has.
    """
    text: Mapping[str, Any] = config.get("text_config", config)
    layers = text["num_hidden_layers"]
    heads = text["num_attention_heads"]
    dtype = text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or "bfloat16"
    quantization: Mapping[str, Any] = config.get("quantization_config") or {}
    experts = next((text[key] for key in _EXPERTS if text.get(key)), 0)
    windowed, recurrent = _layer_types(text)
    weights = _Weights(layers, quantization, padding=_padding(text, quantization))
    for tensor in tensors:
        # Where it is the embedding as well, some files hold it twice.
        if not (text.get("tie_word_embeddings") and tensor.name == "lm_head.weight"):
            weights.add(tensor)
    return ModelShape(
        name=name,
        layers=layers - windowed - recurrent,
        window_layers=windowed,
        window=_window(text),
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_dim=_head_dim(text),
        latent=_latent(text),
        state_elements=recurrent * _state_elements(text) if recurrent else 0,
        hidden=text["hidden_size"],
        intermediate=next(
            (text[key] for key in _EXPERT_WIDTHS[0 if experts else 1 :] if text.get(key)),
            4 * text["hidden_size"],
        ),
        vocabulary=text["vocab_size"],
        context=text.get("max_position_embeddings") or 4096,
        dtype=_ALIASES.get(dtype, dtype),
        quantization=quantization.get("quant_method"),
        float_elements=weights.float_elements,
        fixed_bytes=weights.fixed_bytes,
        parameters=weights.parameters,
        expert_parameters=weights.expert_parameters,
        expert_share=weights.expert_share,
        experts=experts,
        experts_per_token=text.get("num_experts_per_tok") or 1,
    )


class _Weights:
    """Tensors added up."""

    def __init__(self, layers: int, quantization: Mapping[str, Any], *, padding: float) -> None:
        self._layers = layers
        self._padding = padding
        # How many weights of a quantised model lie in one byte of its packed tensors.
        self._packed = 8 // _bits(quantization)
        self.float_elements = 0
        self.fixed_bytes = 0
        self.parameters = 0
        self.expert_parameters = 0
        self._expert_bytes = 0

    @property
    def expert_share(self) -> float:
        total = self.float_elements * 2 + self.fixed_bytes
        return self._expert_bytes / total if total else 0.0

    def add(self, tensor: Tensor) -> None:
        parts = tensor.name.split(".")
        if parts[:2] == ["model", "layers"] and int(parts[2]) >= self._layers:
            return  # predicts further tokens, for speculative decoding; vLLM does not load it
        if tensor.dtype in _FLOATS:
            parameters, size = tensor.elements, 2 * tensor.elements
            self.float_elements += tensor.elements
        else:
            stored = tensor.elements * _SIZES.get(tensor.dtype, 1)
            packed = 1 if tensor.dtype.startswith(("F8", "I8")) else self._packed
            parameters, size = stored * packed, round(stored * self._padding)
            self.fixed_bytes += size
        if any(beside in parts[-1] for beside in ("scale", "zeros")):
            parameters = 0  # of the quantisation
        self.parameters += parameters
        if "experts" in parts:
            self.expert_parameters += parameters
            self._expert_bytes += size


def _padding(text: Mapping[str, Any], quantization: Mapping[str, Any]) -> float:
    """How much larger weights become when they are loaded: kernels for MXFP4 take widths of 256."""
    width = text["hidden_size"]
    return -(-width // 256) * 256 / width if quantization.get("quant_method") == "mxfp4" else 1.0


def _bits(quantization: Mapping[str, Any]) -> int:
    """Of a packed weight; 8 where nothing is packed."""
    if quantization.get("load_in_4bit") or quantization.get("quant_method") == "mxfp4":
        return 4
    groups = quantization.get("config_groups") or {}
    packed = [(group.get("weights") or {}).get("num_bits") for group in groups.values()]
    bits = quantization.get("bits") or next((b for b in packed if b), 8)
    return bits if bits in (2, 4, 8) else 8


def _layer_types(text: Mapping[str, Any]) -> tuple[int, int]:
    """How many layers attend to a window only, and how many to nothing but a state."""
    layers: int = text["num_hidden_layers"]
    if types := text.get("layer_types"):
        windowed = sum(kind in ("sliding_attention", "chunked_attention") for kind in types)
        return windowed, sum(kind == _RECURRENT for kind in types)
    if text.get("full_attention_interval"):  # Qwen3-Next, where its types are not written out
        return 0, layers - layers // int(text["full_attention_interval"])
    if not _window(text) or text.get("use_sliding_window") is False:
        return 0, 0
    # Every n-th layer of Gemma 3, every second of Gemma 2 attends to everything.
    every = text.get("sliding_window_pattern") or (2 if text.get("model_type") == "gemma2" else 0)
    return (layers - layers // every if every else layers), 0


def _window(text: Mapping[str, Any]) -> int:
    return int(text.get("sliding_window") or text.get("attention_chunk_size") or 0)


def _head_dim(text: Mapping[str, Any]) -> int:
    """Where queries and keys are longer than values (MLA), the mean of the two."""
    if text.get("kv_lora_rank"):
        queries = text["qk_nope_head_dim"] + text["qk_rope_head_dim"]
        return int(queries + text["v_head_dim"]) // 2
    return int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])


def _latent(text: Mapping[str, Any]) -> int:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): one compressed
    vector for keys and values of all heads, and one key that carries the position.
    """
    rank = text.get("kv_lora_rank")
    return int(rank) + int(text["qk_rope_head_dim"]) if rank else 0


def _state_elements(text: Mapping[str, Any]) -> int:
    """Of one recurrent layer of Qwen3-Next and its like: a matrix per value head, and the last
    inputs of a convolution.
    """
    keys = text["linear_num_key_heads"] * text["linear_key_head_dim"]
    values = text["linear_num_value_heads"] * text["linear_value_head_dim"]
    state = values * text["linear_key_head_dim"]
    return int(state + (text["linear_conv_kernel_dim"] - 1) * (2 * keys + values))
