"""Well-known models in numbers, for claims of models that nobody downloads here.

Belongs here: what their config.json and their weights' headers say. Does not belong here: what
follows from it (`agent_pipelines/gpu`).
"""

from collections.abc import Mapping

from agent_pipelines.gpu.model import ModelShape, Tensor, shape_of

#: Parameters, layers, heads, KV heads, hidden and intermediate width, words.
_PUBLISHED: Mapping[str, tuple[float, int, int, int, int, int, int]] = {
    "Qwen2.5-0.5B": (0.494e9, 24, 14, 2, 896, 4864, 151936),
    "Qwen2.5-1.5B": (1.544e9, 28, 12, 2, 1536, 8960, 151936),
    "Llama-3.2-3B": (3.213e9, 28, 24, 8, 3072, 8192, 128256),
    "Llama-3.1-8B": (8.030e9, 32, 32, 8, 4096, 14336, 128256),
    "Qwen2.5-14B": (14.77e9, 48, 40, 8, 5120, 13824, 152064),
    "Qwen2.5-32B": (32.76e9, 64, 40, 8, 5120, 27648, 152064),
    "Llama-3.3-70B": (70.55e9, 80, 64, 8, 8192, 28672, 128256),
}


def shape(name: str) -> ModelShape:
    """The model of this name, in bfloat16."""
    parameters, layers, heads, kv_heads, hidden, intermediate, words = _PUBLISHED[name]
    config = {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "vocab_size": words,
        "max_position_embeddings": 32768,
        "dtype": "bfloat16",
    }
    return shape_of(name, config, [Tensor("all", "BF16", round(parameters))])
