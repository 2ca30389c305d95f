"""How busy a model server is, as it tells itself.

Belongs here: what may be asked, and the protocol of asking. Does not belong here: what vLLM calls
it (`resources/llm_metrics.py`), or how many tasks run at once because of it (`batch.py`).
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Load:
    """A model server at one moment; of several engines behind one address, all together."""

    waiting: int
    """Requests that it has accepted and not begun."""
    kv_cache: float
    """The share of its KV cache that is taken, from 0 to 1; of several engines the fullest one's.
    """
    preemptions: int
    """Requests put back for want of KV cache, since it was started."""


class LoadReader(Protocol):
    """Somebody who can be asked for it."""

    async def load(self) -> Load | None:
        """None: the server does not tell, or does not answer now."""
        ...
