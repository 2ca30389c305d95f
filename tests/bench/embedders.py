"""PyTorch and OpenVINO side by side on this machine: `python -m tests.bench.embedders [TEXTS]`.

Belongs here: speed and likeness of the local backends on real text, the READMEs of the installed
packages in pieces of 1,000 characters. Does not belong here: a whole sync, or other indexers.
"""

import importlib.metadata
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rich.console import Console

from agent_pipelines.indexing.embedding import Vectors, embed_checked
from agent_pipelines.indexing.golden import cosine
from agent_pipelines.settings import Settings
from agent_pipelines.terminal import table
from resources.embedders import openvino, pytorch
from resources.embedders.model import find

_CHARACTERS = 1_000
_ROUNDS = 5

#: What a command pays before its first vector, in a process of its own.
_FIRST = "from resources.embedder import EmbedderResource; EmbedderResource().open().embed(['one'])"


def main(count: int) -> None:
    """Print the table."""
    model, cache_dir = find(None, weights=True), Settings().cache_dir
    loaded = pytorch.load(model.folder, device="cpu")
    torch = pytorch.PytorchEmbedder(model, cache_dir)
    quick = openvino.OpenVinoEmbedder(model, openvino.obtain(model, cache_dir), cache_dir)
    texts = chunks(count)
    ways: dict[str, Callable[[], Vectors]] = {
        "PyTorch, by 32": lambda: loaded.encode(texts, convert_to_numpy=True),
        "PyTorch, packed": lambda: embed_checked(torch, texts),
        "OpenVINO, packed": lambda: embed_checked(quick, texts),
    }
    wanted, *_ = (way() for way in ways.values())  # warms each up, too
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    least: dict[str, float] = {}
    # In turns: whatever else the machine does, it does to all of them.
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            began, began_cpu = time.monotonic(), time.process_time()
            vectors = way()
            wall[name].append(time.monotonic() - began)
            cpu[name].append(time.process_time() - began_cpu)
            least[name] = min(map(cosine, wanted, vectors))
    first = {"PyTorch": _first_vector("torch"), "OpenVINO": _first_vector("openvino")}
    base = median(next(iter(wall.values())))
    rows = [
        (
            name,
            f"{len(texts) / median(wall[name]):.1f}",
            f"{base / median(wall[name]):.2f}",
            f"{1000 * median(cpu[name]) / len(texts):.0f}",
            f"{least[name]:.6f}",
            f"{first[name.split(',')[0]]:.1f}",
        )
        for name in ways
    ]
    Console().print(
        f"{len(texts)} chunks of {_CHARACTERS} characters, median of {_ROUNDS} rounds in turns"
    )
    Console().print(
        table(("", "texts/s", "ratio", "CPU ms/text", "min cosine", "first vector, s"), rows)
    )


def chunks(count: int) -> list[str]:
    """The same ones every time, as long as the same packages are installed."""
    readmes = {
        str(d.metadata["Name"]): str(d.metadata.get_payload() or d.metadata["Description"] or "")  # type: ignore[attr-defined]
        for d in importlib.metadata.distributions()
    }
    found = [
        text[start : start + _CHARACTERS]
        for _, text in sorted(readmes.items())
        for start in range(0, len(text) - _CHARACTERS, _CHARACTERS)
    ]
    random.Random(0).shuffle(found)
    return found[:count]


def _first_vector(backend: str) -> float:
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", _FIRST],
        env={**os.environ, "EMBEDDER_BACKEND": backend},
        cwd=Path(__file__).parent.parent.parent,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - began


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 128)
