"""What this machine's processor means for embedding on it.

Belongs here: how many cores it has, and which arithmetic is quick on them. Does not belong here: a
backend; both local ones ask here.
"""

import os
from pathlib import Path


def has_matrix_units() -> bool:
    """Whether it multiplies bfloat16 matrices in units of their own (AMX)."""
    try:
        return " amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


def cores() -> int:
    """How many cores this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
