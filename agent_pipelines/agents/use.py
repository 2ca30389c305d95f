"""What a batch took of its model server, on record with it.

Belongs here: the numbers that say whether the server had the right size. Does not belong here: how
they are seen (`served.py`), or what follows from them (`gpu/advice.py`).
"""

from dataclasses import asdict, dataclass
from typing import Self

from sqlalchemy import Engine, select, update

from agent_pipelines.agents.served import Served
from agent_pipelines.state.engine import read, write
from agent_pipelines.state.tables import batches


@dataclass(frozen=True)
class Use:
    """Of the server as a whole, while the batch ran: others may have asked it, too."""

    kv_cache_tokens: int
    """That its KV cache holds."""
    kv_cache_peak: float
    """The share of it that was taken at most."""
    preemptions: int
    """Requests that were put back for want of it."""
    most_waiting: int
    stream_tokens_per_second: float | None
    """Of a request, once it has its first; None where none had a second."""
    ttft_p95_seconds: float | None
    gpus: int | None

    @classmethod
    def of(cls, served: Served, gpus: int | None) -> Self | None:
        """What a server did; None where it does not say how large it is."""
        if not served.kv_cache_tokens:
            return None
        return cls(
            kv_cache_tokens=served.kv_cache_tokens,
            kv_cache_peak=served.kv_cache_peak,
            preemptions=int(served.counters.preemptions),
            most_waiting=served.most_waiting,
            stream_tokens_per_second=served.stream_tokens_per_second,
            ttft_p95_seconds=served.counters.ttft.quantile(0.95),
            gpus=gpus,
        )

    def after(self, earlier: Self) -> Self:
        """Of a batch that was cut off, with what its earlier runs took: the most of both."""
        return type(self)(
            **{
                **asdict(self),
                "kv_cache_peak": max(self.kv_cache_peak, earlier.kv_cache_peak),
                "preemptions": self.preemptions + earlier.preemptions,
                "most_waiting": max(self.most_waiting, earlier.most_waiting),
            }
        )


def record_use(engine: Engine, batch_id: str, use: Use) -> None:
    """Keep it with the batch, and what its earlier runs took."""
    earlier = recorded_use(engine, batch_id)
    if earlier is not None and earlier.kv_cache_tokens == use.kv_cache_tokens:
        use = use.after(earlier)
    with write(engine) as connection:
        connection.execute(
            update(batches).where(batches.c.batch_id == batch_id).values(used=asdict(use))
        )


def recorded_use(engine: Engine, batch_id: str) -> Use | None:
    """What a batch took; None where nobody saw it."""
    query = select(batches.c.used).where(batches.c.batch_id == batch_id)
    with read(engine) as connection:
        found = connection.execute(query).scalar_one_or_none()
    return Use(**found) if found else None
