"""OpenVINO: the same weights on a CPU, without PyTorch once they are converted.

Belongs here: obtaining the converted model, loading it, computing vectors. Does not belong here:
the conversion itself (`convert.py`), which needs PyTorch and runs in a process of its own.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.embedding import Vectors
from resources.embedders import cpu
from resources.embedders.local import LocalEmbedder
from resources.embedders.model import Model

if TYPE_CHECKING:
    pass

#: Inputs of a converted model, and what of an encoding goes there.
INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}

#: Raised when `convert.py` converts differently.
_CONVERSION = 1

#: Padded tokens per core at once: 0.1 s of MiniLM's work. CPU time per text is alike from 128 to
#: 512, from 1,024 on it rises by up to 40 %: what is between two layers leaves a core's cache.
_TOKENS_PER_CORE = 512

_ERROR_LINES = 10


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
    """The folder of the converted model; converted (about half a minute) where it is not there.

    Raises:
        NotConvertedError: the conversion failed, or its vectors are not those of the model.
    """
    known = model.remembered(cache_dir)
    version = importlib.metadata.version("openvino")
    folder = cache_dir / "embedders" / f"openvino-{version}-{_CONVERSION}"
    converted = folder / (known.digest if known else model.digest)[:32]
    if converted.exists():
        return converted
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f".{converted.name}.lock", "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not converted.exists():
            # Left by a command that was killed.
            for abandoned in folder.glob(f".new-{converted.name}-*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            _convert(model, converted)
    return converted


def _convert(model: Model, converted: Path) -> None:
    """In a process of its own: PyTorch's memory is given back, and Ctrl-C takes effect."""
    with tempfile.TemporaryDirectory(dir=converted.parent, prefix=f".new-{converted.name}-") as new:
        try:
            subprocess.run(
                [
                    *(sys.executable, "-P", "-W", "ignore", "-m", "resources.embedders.convert"),
                    *(model.folder, new),
                ],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(sys.path),  # finds there what is found here
                    "HF_HUB_OFFLINE": "1",
                    "TRANSFORMERS_VERBOSITY": "error",
                    "CUDA_VISIBLE_DEVICES": "",
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=True,
            )
        except subprocess.CalledProcessError as error:
            last = "".join(f"\n    {line}" for line in error.stdout.splitlines()[-_ERROR_LINES:])
            raise NotConvertedError(
                f"embedder model {model.name} cannot be converted for OpenVINO (exit status "
                f"{error.returncode}){last}",
                remedy="set EMBEDDER_BACKEND=torch",
            ) from error
        # Whole or not at all: a reader never sees half a model.
        os.chmod(new, 0o755)  # noqa: S103 - weights are public, and other users may share the cache
        os.rename(new, converted)
        os.mkdir(new)  # for the context manager to remove


class OpenVinoEmbedder(LocalEmbedder["Network"]):
    """A converted model. It is loaded in less than a second."""

    def __init__(self, model: Model, converted: Path, cache_dir: Path) -> None:
        super().__init__(model, cache_dir)
        self._converted = converted

    @property
    def pack_tokens(self) -> int:
        """The largest pack it likes."""
        return _TOKENS_PER_CORE * cpu.cores()

    def _load(self) -> "Network":
        return Network(self._converted)

    def _vectors(self, loaded: "Network", texts: Sequence[str]) -> Vectors:
        return loaded.vectors(texts)

    def _longest(self, loaded: "Network") -> int:
        return loaded.longest


class Network:
    """What `convert.py` wrote, loaded: text in, vectors out. Not for two threads at once."""

    def __init__(self, converted: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(converted / "tokenizer.json"))
        compiled = (
            runtime()
            .Core()
            .compile_model(
                converted / "model.xml",
                "CPU",
                {
                    # Left alone it takes bfloat16 wherever there are instructions for it. In
                    # matrix units that is 2.5 times as fast at a cosine of 0.99996; without them
                    # it is slower than float32.
                    "INFERENCE_PRECISION_HINT": "bf16" if cpu.has_matrix_units() else "f32",
                    # All cores on one pack; more packs at once were no faster.
                    "PERFORMANCE_HINT": "LATENCY",
                },
            )
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
