"""Which accelerators this machine shows, told without importing what would use them.

Belongs here: a look at device files and the platform, in microseconds. Does not belong here: how
much memory they have or who may use them (`gpu`).
"""

import os
import platform
import shutil
import sys
from itertools import takewhile
from pathlib import Path


def has_gpu() -> bool:
    """Whether there is a GPU that CUDA or ROCm drives."""
    # ROCm's and NVIDIA's device files; WSL has the tool without the file.
    return (
        Path("/dev/nvidiactl").exists()
        or Path("/dev/kfd").exists()
        or shutil.which("nvidia-smi") is not None
    )


def visible_gpus(dev: Path = Path("/dev")) -> int:
    """How many GPUs that CUDA or ROCm drives a process here may use.

    By their device files, of which a container has those that it was given, less what
    CUDA_VISIBLE_DEVICES hides. WSL shows no file of each: there it counts as one.
    """
    present = sum(file.name[len("nvidia") :].isdigit() for file in dev.glob("nvidia*"))
    if not present and (dev / "kfd").exists():
        present = len(list((dev / "dri").glob("renderD*")))
    if not present and (dev / "dxg").exists() and shutil.which("nvidia-smi"):
        present = 1
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return present
    # As CUDA reads it: what stands behind one that does not exist is hidden, too.
    chosen = takewhile(lambda device: device.strip() not in ("", "-1"), named.split(","))
    return min(present, len(list(chosen)))


def has_mps() -> bool:
    """Whether there is a GPU that Metal drives: every Mac with Apple's own processor has one."""
    return sys.platform == "darwin" and platform.machine() == "arm64"
