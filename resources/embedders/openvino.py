"""OpenVINO: the same weights on a CPU, without PyTorch once they are converted.

Belongs here: obtaining the converted model, loading it, computing vectors. Does not belong here:
the conversion itself (`convert.py`), which needs PyTorch and runs in a process of its own.
"""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.embedding import Vectors
from agent_pipelines.local.conversion import ConversionError, converted
from resources.embedders import cpu
from resources.embedders.local import LocalEmbedder
from resources.embedders.model import Model

#: Inputs of a converted model, and what of an encoding goes there.
INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}

#: Raised when `convert.py` converts differently.
_CONVERSION = 2

#: How many 8-bit weights in a row share a scale (`quantise.py`), as do the activations they meet.
#: With 128 it is a tenth quicker and coarser.
WEIGHTS_PER_SCALE = 64

#: Padded tokens per core at once: 0.1 s of MiniLM's work. CPU time per text is alike from 128 to
#: 512, from 1,024 on it rises by up to 40 %: what is between two layers leaves a core's cache.
_TOKENS_PER_CORE = 512


class NotConvertedError(UserError):
    """This model cannot be had in OpenVINO's form on this machine."""


def is_installed() -> bool:
    """Whether the package is there, without importing it."""
    return importlib.util.find_spec("openvino") is not None


def runtime() -> Any:
    """The package. It would report each import of it to its makers; here it cannot."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def obtain(model: Model, cache_dir: Path) -> Path:
    """The folder of the converted model; converted (about a minute) where it is not there.

    Raises:
        NotConvertedError: the conversion failed, or its vectors are not those of the model.
    """
    known = model.remembered(cache_dir)
    version = importlib.metadata.version("openvino")
    folder = cache_dir / "embedders" / f"openvino-{version}-{_CONVERSION}"
    digest = (known.digest if known else model.digest)[:32]
    weights = "int8" if cpu.arithmetic() == "int8" else "f32"
    try:
        return converted(
            folder / f"{digest}-{weights}",
            ["-m", "resources.embedders.convert", str(model.folder), weights],
        )
    except ConversionError as error:
        raise NotConvertedError(
            f"embedder model {model.name} cannot be converted for OpenVINO: {error}",
            remedy="set EMBEDDER_BACKEND=torch",
        ) from error


def compile_settings() -> dict[str, str]:
    """OpenVINO's own settings for a converted model on this machine."""
    return {
        # Left alone it takes bfloat16 wherever there are instructions for it: without matrix
        # units that is slower than float32.
        "INFERENCE_PRECISION_HINT": "bf16" if cpu.arithmetic() == "bf16" else "f32",
        # For activations that meet 8-bit weights; no others are touched.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(WEIGHTS_PER_SCALE),
        # All cores on one pack; more packs at once were no faster.
        "PERFORMANCE_HINT": "LATENCY",
    }


class OpenVinoEmbedder(LocalEmbedder["Network"]):
    """A converted model. It is loaded in less than a second."""

    def __init__(self, model: Model, folder: Path, cache_dir: Path) -> None:
        super().__init__(model, cache_dir)
        self._folder = folder

    @property
    def pack_tokens(self) -> int:
        """The largest pack it likes."""
        return _TOKENS_PER_CORE * cpu.cores()

    def _load(self) -> "Network":
        return Network(self._folder)

    def _vectors(self, loaded: "Network", texts: Sequence[str]) -> Vectors:
        return loaded.vectors(texts)

    def _longest(self, loaded: "Network") -> int:
        return loaded.longest


class Network:
    """What `convert.py` wrote, loaded: text in, vectors out. Not for two threads at once.

    `model`, where given, is taken for the one in the folder.
    """

    def __init__(self, folder: Path, model: Any = None) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        compiled = (
            runtime().Core().compile_model(model or folder / "model.xml", "CPU", compile_settings())
        )
        self._inputs = [port.get_any_name() for port in compiled.inputs]
        self._request = compiled.create_infer_request()

    @property
    def longest(self) -> int:
        """Tokens of the longest input, special tokens included."""
        truncation = self._tokenizer.truncation
        assert truncation is not None, "convert.py sets it"
        return int(truncation["max_length"])

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """One vector per text, in one forward pass."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        inputs = {
            name: np.array([getattr(e, INPUTS[name]) for e in encodings], np.int64)
            for name in self._inputs
        }
        return np.asarray(self._request.infer(inputs)[0], dtype=np.float32)
