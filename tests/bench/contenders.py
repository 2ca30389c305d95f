"""Who is compared, and the environment each one runs in.

Belongs here: the catalogue, and building a peer's virtual environment from exact pins. Does not
belong here: how a contender is used (`drivers/`).

CocoIndex is no contender: none of its connectors writes to Weaviate (1.0.26), and a target of our
own for it would measure our code.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent_pipelines.errors import UserError

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contender:
    """One indexer."""

    name: str
    title: str
    driver: str
    """A file of `drivers/`."""
    pins: str | None
    """A file of `pins/`; None runs in this environment."""
    copied: tuple[str, ...] = ()
    """Packages that do not work with files that uv linked."""


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("ours", "agent-pipelines", "ours.py", None),
        Contender("langchain", "LangChain", "with_langchain.py", "langchain.txt"),
        Contender(
            "llamaindex",
            "LlamaIndex",
            "with_llamaindex.py",
            "llamaindex.txt",
            copied=("llama-index-core",),  # nltk refuses to read its stop words from a hard link
        ),
    )
}


def python_of(contender: Contender, cache_dir: Path, say: Callable[[str], None]) -> Path:
    """The interpreter of the contender's environment, built on first use and kept.

    Their dependencies clash with ours. uv links files it has already, so that a second torch costs
    neither time nor disk.

    Raises:
        UserError: uv is not there, or could not install the pins.
    """
    if contender.pins is None:
        return Path(sys.executable)
    pins = HERE / "pins" / contender.pins
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(f"{version}\n{pins.read_text()}".encode()).hexdigest()[:12]
    folder = cache_dir / "bench" / f"{contender.name}-{digest}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists():
        return python
    # `uv run` says where it is, also where it is only a module of some Python.
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise UserError("uv is not on PATH", remedy="run this with `python3 -m uv run …`")
    say(f"installing {contender.title} into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        install = [uv, "pip", "install", "--python", str(python), "--requirements", str(pins)]
        copied = [f"--reinstall-package={package}" for package in contender.copied]
        for argv in (
            [uv, "venv", "--clear", "--python", sys.executable, str(folder)],
            install,
            *([[*install, "--link-mode=copy", *copied]] if copied else []),
        ):
            # Not from within this project: uv would hold the pins to its constraints.
            done = subprocess.run(argv, cwd=folder.parent, capture_output=True, text=True)
            if done.returncode:
                raise UserError(
                    f"{contender.title} cannot be installed:\n{done.stderr.strip()}",
                    remedy=f"correct {pins}, or leave it out with --contenders",
                )
    except BaseException:  # Ctrl-C included
        shutil.rmtree(folder, ignore_errors=True)
        raise
    complete.touch()
    return python
