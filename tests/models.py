"""Model folders of well-known shapes: config.json and the headers of weights, without the weights.

Belongs here: which tensors a decoder has, from its config. Does not belong here: what is published
of it (`recorded/models.json`), or what follows from it.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RECORDED: Mapping[str, Any] = json.loads(
    (Path(__file__).parent / "recorded" / "models.json").read_text()
)

Tensors = Iterator[tuple[str, str, list[int]]]


def write_model(folder: Path, name: str, **changes: Any) -> Path:
    """The folder of a recorded model; ``changes`` are to its config."""
    config = {**RECORDED[name]["config"], **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header = {
        # Nobody looks for the data, which is not there.
        tensor: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
        for tensor, dtype, shape in tensors(config)
    }
    encoded = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded)
    return folder


def tensors(config: Mapping[str, Any]) -> Tensors:
    """Name, type and shape of every tensor but norms and biases, which are a thousandth."""
    hidden, words = config["hidden_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", "BF16", [words, hidden]
    if not config.get("tie_word_embeddings") or config.get("saved_twice"):
        yield "lm_head.weight", "BF16", [words, hidden]
    for layer in range(config["num_hidden_layers"]):
        for name, size in _layer(config, layer):
            yield from _linear(config, f"model.layers.{layer}.{name}", *size)


#: A matrix: its name, its inputs and outputs, and how many of it there are.
Matrix = tuple[str, tuple[int, int, int]]


def _layer(config: Mapping[str, Any], layer: int) -> Iterator[Matrix]:
    for name, (inputs, outputs) in _attention(config):
        yield name, (inputs, outputs, 1)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    experts = next((config[key] for key in _EXPERTS if key in config), 0)
    if not experts or layer < config.get("first_k_dense_replace", 0):
        yield from _feed_forward("mlp", hidden, inner, 1)
        return
    width = config.get("moe_intermediate_size", inner)
    yield "mlp.gate", (hidden, experts, 1)
    if shared := config.get("n_shared_experts", 0):
        yield from _feed_forward("mlp.shared_experts", hidden, shared * width, 1)
    yield from _feed_forward("mlp.experts", hidden, width, experts)


_EXPERTS = ("num_local_experts", "n_routed_experts", "num_experts")


def _feed_forward(name: str, hidden: int, width: int, count: int) -> Iterator[Matrix]:
    for part in ("gate_proj", "up_proj"):
        yield f"{name}.{part}", (hidden, width, count)
    yield f"{name}.down_proj", (width, hidden, count)


def _attention(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, int]]]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    if rank := config.get("kv_lora_rank"):
        key = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
        value = config["v_head_dim"]
        yield "self_attn.q_a_proj", (hidden, config["q_lora_rank"])
        yield "self_attn.q_b_proj", (config["q_lora_rank"], heads * key)
        yield "self_attn.kv_a_proj_with_mqa", (hidden, rank + config["qk_rope_head_dim"])
        yield "self_attn.kv_b_proj", (rank, heads * (config["qk_nope_head_dim"] + value))
        yield "self_attn.o_proj", (heads * value, hidden)
    else:
        dim = config.get("head_dim") or hidden // heads
        for name in ("q", "k", "v"):
            count = heads if name == "q" else config["num_key_value_heads"]
            yield f"self_attn.{name}_proj", (hidden, count * dim)
        yield "self_attn.o_proj", (heads * dim, hidden)


def _linear(config: Mapping[str, Any], name: str, inputs: int, outputs: int, count: int) -> Tensors:
    """A matrix, as the model's quantisation has it; those of all experts lie in one tensor."""
    for tensor, dtype, shape in _quantised(config, name, inputs, outputs):
        yield tensor, dtype, [count, *shape]


def _quantised(config: Mapping[str, Any], name: str, inputs: int, outputs: int) -> Tensors:
    quantization = config.get("quantization_config", {})
    method = quantization.get("quant_method")
    if method in ("fp8", "compressed-tensors") and not name.endswith(".gate"):
        yield f"{name}.weight", "F8_E4M3", [outputs, inputs]
        if block := quantization.get("weight_block_size"):
            blocks = [-(-n // size) for n, size in zip((outputs, inputs), block, strict=True)]
            yield f"{name}.weight_scale_inv", "F32", blocks
        else:
            yield f"{name}.weight_scale", "BF16", [outputs, 1]
    elif method == "awq":
        groups = inputs // quantization["group_size"]
        yield f"{name}.qweight", "I32", [inputs, outputs // 8]
        yield f"{name}.qzeros", "I32", [groups, outputs // 8]
        yield f"{name}.scales", "F16", [groups, outputs]
    elif method == "mxfp4" and ".experts." in name:
        yield f"{name}_blocks", "U8", [outputs, inputs // 32, 16]
        yield f"{name}_scales", "U8", [outputs, inputs // 32]
    else:
        yield f"{name}.weight", "BF16", [outputs, inputs]
