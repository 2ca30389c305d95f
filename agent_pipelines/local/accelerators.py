"""Which accelerators this machine shows, told without importing what would use them.

Belongs here: a look at device files and the platform, in microseconds. Does not belong here: how
much memory they have or who may use them (`gpu`).
"""

import platform
import shutil
import sys
from pathlib import Path


def has_gpu() -> bool:
    """Whether there is a GPU that CUDA or ROCm drives."""
    # ROCm's and NVIDIA's device files; WSL has the tool without the file.
    return (
        Path("/dev/nvidiactl").exists()
        or Path("/dev/kfd").exists()
        or shutil.which("nvidia-smi") is not None
    )


def has_mps() -> bool:
    """Whether there is a GPU that Metal drives: every Mac with Apple's own processor has one."""
    return sys.platform == "darwin" and platform.machine() == "arm64"
