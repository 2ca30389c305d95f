"""A vLLM of a run's own: started where the run is, shared by those beside it, ended with them.

Belongs here: what must be true before it is started, and its log. Does not belong here: its flags
(`agent_pipelines/local/vllm.py`), or its life and end (`agent_pipelines/local/parts.py`).
"""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from agent_pipelines.errors import UserError
from agent_pipelines.gpu.visible import visible_devices
from agent_pipelines.local import accelerators, vllm
from agent_pipelines.local.fit import refuse_what_cannot_fit
from agent_pipelines.local.models import check_llm, packaged_llm
from agent_pipelines.local.parts import Launch, Parts, find
from agent_pipelines.progress import progress_or_log
from agent_pipelines.settings import Settings

Say = Callable[[str], object]

#: Seconds between two looks at its log: what it says within them is one entry of the run's log.
_LOOK_EVERY = 2.0

Gpu = Literal["required", "optional"]


@dataclass(frozen=True)
class Order:
    """Which vLLM to start."""

    name: str
    """The llm's; runs that name the same one share it."""
    model: str | None
    """A name on the hub or a folder; None: LLM_MODEL, else the packaged one."""
    gpu: Gpu
    context: int | None
    """Tokens of one conversation; None: what the model allows."""
    arguments: tuple[str, ...]
    """Further flags, as they are."""
    claimed: bool = False
    """The GPUs that are visible were asked for it: it uses all of them."""

    @property
    def part(self) -> str:
        return f"vllm_{self.name}"

    @property
    def digest(self) -> str:
        """Tells two of the same name apart."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]


def check(order: Order) -> str:
    """See that it could be started here; where it would run, in words for a person.

    Raises:
        UserError: vLLM is not installed, the model is not there or does not fit, or a GPU is
            required and none is visible.
    """
    gpus = accelerators.visible_gpus()
    if order.gpu == "required" and not gpus:
        raise UserError(
            f"llm {order.name} requires a GPU, and none is visible here",
            remedy="see that the run's pod has its claim (a job's tags are dropped by the UI's "
            "Materialize button) and that CUDA_VISIBLE_DEVICES hides none; or set `gpu: optional`",
        )
    on_cpu = vllm.runs_on_cpu()
    if order.gpu == "required" and on_cpu:
        raise UserError(
            f"llm {order.name} requires a GPU, and the vLLM that is installed runs on CPUs",
            remedy="install the other one with `uv sync --extra gpu`, or set `gpu: optional`",
        )
    model = order.model or Settings().llm_model
    if on_cpu and model:
        check_llm(model)
    if not on_cpu and model:
        devices = visible_devices()
        sharing = len(devices) if order.claimed else 1
        refuse_what_cannot_fit(
            model, devices, arguments=order.arguments, context=order.context, sharing=sharing
        )
    flags = (*shared(order, gpus), *order.arguments)
    where = "the CPU" if on_cpu else _of(vllm.gpus_taken(flags, gpus))
    return f"vLLM with {model or 'the packaged model'} on {where}"


@asynccontextmanager
async def spawned(order: Order, say: Say) -> AsyncIterator[dict[str, str]]:
    """Have it, started or attached to, until the block is left; its addresses.

    Whoever leaves last ends it, in whatever way they leave: see `Parts`.

    Args:
        say: told its log, a few seconds' lines at a time, and how far its start is.

    Raises:
        UserError: see `check`; or it does not start, or one with other settings runs.
    """
    check(order)
    settings = Settings()

    def news(line: str) -> None:
        say(line)

    def launch() -> Launch:
        named = order.model or settings.llm_model
        model = named or str(packaged_llm(settings.cache_dir, news))
        folder = Path(model).expanduser()
        made = vllm.launch(
            folder if folder.is_dir() else model,
            settings.state_dir,
            name=order.part,
            served_name=folder.name if folder.is_dir() else model,
            max_model_len=order.context,
            compiled=True,
            extra_args=(*shared(order, accelerators.visible_gpus()), *order.arguments),
        )
        return replace(made, addresses={**made.addresses, "order": order.digest})

    log = settings.state_dir / "logs" / f"{order.part}.log"
    with _told(log, say), Parts(settings.state_dir) as parts:
        with progress_or_log(say).stage(f"llm {order.name}: waiting for vLLM"):
            # In a thread: it takes minutes, and nobody else should wait for it. Where this is
            # cancelled meanwhile, closing the parts ends the thread.
            addresses = await asyncio.to_thread(parts.ensure, order.part, launch, progress=news)
        if addresses.get("order") != order.digest:
            part = find(settings.state_dir, order.part)
            raise UserError(
                f"llm {order.name} runs here already with other settings"
                + (f" (process {part.child})" if part else ""),
                remedy="wait until the run that uses it has ended, or name yours differently",
            )
        yield dict(addresses)


def shared(order: Order, gpus: int) -> tuple[str, ...]:
    """The flag by which all GPUs that were claimed are used, where `arguments` do not say."""
    if not order.claimed or gpus < 2 or vllm.tensor_parallel(order.arguments):
        return ()
    return "--tensor-parallel-size", str(gpus)


@contextmanager
def _told(log: Path, say: Say) -> Iterator[None]:
    """Pass on what is written to a log from now on."""
    begin = log.stat().st_size if log.exists() else 0
    over = threading.Event()

    def follow() -> None:
        position, ending = begin, False
        while not ending:
            ending = over.wait(_LOOK_EVERY)
            position = _tell(log, position, say)

    follower = threading.Thread(target=follow, name=f"log of {log.stem}", daemon=True)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()


def _tell(log: Path, position: int, say: Say) -> int:
    """Tell the whole lines after `position`; where the next ones begin."""
    if not log.exists():
        return position
    if log.stat().st_size < position:
        position = 0  # it had grown too long, and was begun anew
    with log.open("rb") as file:
        file.seek(position)
        new = file.read()
    lines, _, rest = new.rpartition(b"\n")
    if lines.strip():
        say(lines.decode(errors="replace"))
    return position + len(new) - len(rest)


def _of(gpus: int) -> str:
    return "one GPU" if gpus == 1 else f"{gpus} GPUs"
