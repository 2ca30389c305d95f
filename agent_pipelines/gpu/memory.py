"""Memory that serving a model takes, from its config.json and the headers of its weights.

Belongs here: weights and KV cache in bytes. Does not belong here: which device has that much.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_pipelines.errors import UserError

#: Bytes per element of the data types that weights and KV caches have.
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class ModelShape:
    """The numbers that decide how much memory a decoder-only transformer takes."""

    layers: int
    kv_heads: int
    head_dim: int
    kv_bytes: int
    """Bytes per element of the KV cache."""
    weight_bytes: int
    """All tensors together, as they lie in the files."""

    @property
    def kv_bytes_per_token(self) -> int:
        """A key and a value per layer and KV head (grouped heads: Ainslie et al. 2023)."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.kv_bytes

    def memory(self, *, context: int, concurrency: int) -> int:
        """Bytes for the weights, and for that many sequences of that many tokens at once."""
        return self.weight_bytes + self.kv_bytes_per_token * context * concurrency


def read_shape(folder: Path) -> ModelShape:
    """Read a model folder: config.json and *.safetensors, headers only.

    Raises:
        UserError: the folder is not a model that can be read this way.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        heads = config["num_attention_heads"]
        dtype = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise FileNotFoundError("no *.safetensors in it")
        return ModelShape(
            layers=config["num_hidden_layers"],
            kv_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            kv_bytes=_BYTES[dtype],
            weight_bytes=sum(_tensor_bytes(file) for file in weights),
        )
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise UserError(
            f"model folder {folder} cannot be read: {error}",
            remedy="name a folder with config.json and *.safetensors of a decoder-only model",
        ) from error


def _tensor_bytes(file: Path) -> int:
    """The format: eight bytes of header length, little-endian, then the header as JSON."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, Any] = json.loads(opened.read(length))
    offsets = [t["data_offsets"] for name, t in header.items() if name != "__metadata__"]
    return sum(end - start for start, end in offsets)
