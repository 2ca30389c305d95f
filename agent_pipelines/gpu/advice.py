"""Whether a model server was too small or too large for what it did.

Belongs here: what follows from numbers that were measured. Does not belong here: measuring and
keeping them (`agents/served.py`, `agents/use.py`).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from agent_pipelines.agents.use import Use
from agent_pipelines.gpu.memory import Need, kv_bytes_per_token
from agent_pipelines.gpu.model import ModelShape, resolved_dtype

#: How much more than was ever taken is kept free, and how much more is asked for than was there
#: when it was not enough: what would have been needed is not seen then.
_ROOM, _GROWTH = 1.25, 1.5

#: A KV cache that is fuller than this has no room for one more.
_FULL = 0.95

#: Less than this of what is asked for now is worth another claim.
_MUCH_LESS = 0.75

Verdict = Literal["smaller", "larger", "as it is"]


@dataclass(frozen=True)
class Advice:
    """What to ask for next time, and why."""

    verdict: Verdict
    need: Need
    reasons: tuple[str, ...]


def advise(use: Use, shape: ModelShape, need: Need) -> Advice:
    """What a batch's use says of what was asked for.

    Args:
        need: what is asked for now.
    """
    wanted, why = _conversations(use, need.tokens(shape))
    reasons = [why]
    if slow := _slow(use, shape, need):
        reasons.append(slow)
    if wanted > need.concurrency:
        return Advice("larger", replace(need, concurrency=wanted), tuple(reasons))
    if slow:
        return Advice("larger", need, tuple(reasons))
    if wanted < _MUCH_LESS * need.concurrency:
        return Advice("smaller", replace(need, concurrency=wanted), tuple(reasons))
    return Advice("as it is", need, tuple(reasons))


def _conversations(use: Use, context: int) -> tuple[int, str]:
    """How many of full length the KV cache should hold, and why."""
    if use.preemptions or (use.kv_cache_peak > _FULL and use.most_waiting):
        wanted = _GROWTH * use.kv_cache_tokens
        why = (
            f"the KV cache of {use.kv_cache_tokens:,} tokens was full: {use.preemptions} requests "
            f"were put back for want of it, and up to {use.most_waiting} waited"
        )
    else:
        held = use.kv_cache_peak * use.kv_cache_tokens
        wanted = _ROOM * held
        why = (
            f"at most {held:,.0f} of the {use.kv_cache_tokens:,} tokens of the KV cache were taken "
            f"({use.kv_cache_peak:.0%})"
        )
    conversations = max(1, math.ceil(wanted / context))
    return conversations, f"{why}: {conversations} conversations of {context:,} tokens"


def _slow(use: Use, shape: ModelShape, need: Need) -> str | None:
    """That it decoded more slowly than is asked for, and what bandwidth that comes to."""
    speed = use.stream_tokens_per_second
    if not need.tokens_per_second or speed is None or speed >= need.tokens_per_second:
        return None
    devices = use.gpus or 1
    weights = shape.weight_bytes(resolved_dtype(need.dtype, shape)) / devices
    cache = use.kv_cache_peak * use.kv_cache_tokens * kv_bytes_per_token(shape, need, devices)
    return (
        f"{speed:.1f} tokens/s of {need.tokens_per_second:g}: at most "
        f"{speed * (weights + cache) / 1e9:,.0f} GB/s were read on each GPU; say so as "
        "`measured_gb_s` of that device, and it is left out where it is too slow"
    )
