"""What this machine's processor means for embedding on it.

Belongs here: how much it likes at once, and which arithmetic is quick. Does not belong here: a
backend; both local ones ask here.
"""

import os
from pathlib import Path

#: Padded tokens per core in one forward pass. MiniLM on two cores, CPU time per text, both
#: backends: 256 to 1,024 are alike, 2,048 costs up to 10 % more, 4,096 up to 40 %: what lies
#: between two layers no longer fits into a core's cache.
_TOKENS_PER_CORE = 512


def pack_tokens() -> int:
    """The padded batch to compute at once, in tokens; about 0.1 s of a MiniLM's work."""
    return _TOKENS_PER_CORE * _cores()


def has_matrix_units() -> bool:
    """Whether it multiplies bfloat16 matrices in units of their own (AMX)."""
    try:
        return " amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


def _cores() -> int:
    # Those this process may use, where the system tells.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
