"""What a batch should reach: how quick its model server should be, and how well it should end.

Belongs here: the numbers, and which of them count where. Does not belong here: what it was
(`served.py`), or what follows from missing them (`components/llm_checks.py`).
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

#: The share of a batch's rows that end with outcome ok.
COMPLETION = 0.95

#: The share of tool calls that bring a result, and how long 99% of them take at most.
TOOL_SUCCESS, TOOL_P99_SECONDS = 0.995, 0.2


@dataclass(frozen=True)
class Pace:
    """What a server should reach."""

    ttft_p95_seconds: float
    stream_tokens_per_second: float
    waiting: int


#: By the kind of machine. That of CPUs: two cores, the packaged model, eight conversations at once.
PROFILES = {"gpu": Pace(0.5, 30.0, 10), "cpu": Pace(20.0, 2.0, 10)}


class Targets(BaseModel):
    """Targets of an agent's model server; checks warn where they are missed, and fail nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: Literal["gpu", "cpu"] | None = Field(
        default=None,
        description="Where targets come from that are not set here. gpu: 0.5 s, 30 tokens/s, 10; "
        "cpu: 20 s, 2 tokens/s, 10. Default: cpu where the server is known to run on one, else "
        "gpu.",
    )
    ttft_p95_seconds: float | None = Field(
        default=None, gt=0, description="95% of the requests have their first token before this."
    )
    stream_tokens_per_second: float | None = Field(
        default=None, gt=0, description="A request gets more than this, once it has its first."
    )
    waiting: int | None = Field(
        default=None, gt=0, description="Fewer requests than this wait at any moment."
    )

    def profile_on(self, gpus: int | None) -> str:
        """The profile for a server with this many GPUs; None: nobody knows how many."""
        return self.profile or ("cpu" if gpus == 0 else "gpu")

    def on(self, gpus: int | None) -> Pace:
        """All targets, for a server with this many GPUs."""
        given = PROFILES[self.profile_on(gpus)]
        return Pace(
            self.ttft_p95_seconds or given.ttft_p95_seconds,
            self.stream_tokens_per_second or given.stream_tokens_per_second,
            self.waiting or given.waiting,
        )
