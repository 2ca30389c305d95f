"""What this machine's processor means for embedding on it.

Belongs here: how many cores it has, and which arithmetic is quick on them. Does not belong here: a
backend; both local ones ask here.
"""

import os
from pathlib import Path
from typing import Literal

#: How numbers are multiplied: bfloat16 in matrix units, 8-bit weights, float32.
Arithmetic = Literal["bf16", "int8", "f32"]


def arithmetic() -> Arithmetic:
    """What is quickest here among what leaves vectors alone.

    With MiniLM, beside float32 in the same library: bfloat16 in AMX units 2.5 times as fast at a
    cosine of 0.9999, 8-bit weights by AVX-512 VNNI 1.6 times at 0.9994. Without such units either
    is slower than float32, or was never measured.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return "f32"
    if " amx_bf16" in flags:
        return "bf16"
    return "int8" if " avx512_vnni" in flags else "f32"


def cores() -> int:
    """How many cores this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
