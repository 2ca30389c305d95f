"""A model in another form: made once by a program of its own, kept whole or not at all.

Belongs here: one maker at a time, and what a killed one leaves. Does not belong here: any model or
form (`models.py`; `resources/embedders/openvino.py`).
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

_ERROR_LINES = 10


class ConversionError(Exception):
    """The program failed; the message has its exit status and the last it said."""


def converted(
    folder: Path,
    program: Sequence[str],
    *,
    waiting: Callable[[], object] = lambda: None,
    making: Callable[[], object] = lambda: None,
) -> Path:
    """`folder`, made by Python with `program` and the name of an empty folder as its arguments.

    A process of its own gives back what PyTorch took, and Ctrl-C takes effect. It reaches no hub
    and takes no GPU. `waiting` is told where somebody else is making it, `making` where this
    process begins to.

    Raises:
        ConversionError: the program failed.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        if not folder.exists():
            making()
            _make(folder, program)
    return folder


def _make(folder: Path, program: Sequence[str]) -> None:
    prefix = f".new-{folder.name}-"
    for abandoned in folder.parent.glob(f"{prefix}*"):  # by one that was killed
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as new:
        try:
            subprocess.run(
                [sys.executable, "-P", "-W", "ignore", *program, new],
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
            raise ConversionError(f"exit status {error.returncode}{last}") from error
        # Whole or not at all: a reader never sees half a model.
        os.chmod(new, 0o755)  # noqa: S103 - weights are public, and other users may share the cache
        os.rename(new, folder)
        os.mkdir(new)  # for the context manager to remove
