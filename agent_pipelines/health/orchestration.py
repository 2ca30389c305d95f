"""What signals of the machinery ask of the orchestrator: who beats, who ticks, what runs.

Belongs here: the shape of the answers. Does not belong here: Dagster (`resources/orchestrator.py`
asks it), or judging them (`machinery/`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

#: How late a heartbeat or a tick may be: a slow sensor holds up its daemon for its deadline of a
#: minute, and a daemon that is deployed anew is away for another.
GRACE = timedelta(seconds=120)


@dataclass(frozen=True)
class Heartbeat:
    """The last sign of life of one daemon that is needed."""

    daemon: str
    at: datetime | None
    """None: it never gave one."""
    every: timedelta
    errors: Sequence[str] = ()
    """What went wrong in it lately."""


@dataclass(frozen=True)
class Watcher:
    """A sensor or schedule that the assets folder says is switched on."""

    name: str
    kind: Literal["sensor", "schedule"]
    on: bool
    due: datetime
    """Its last tick must not be older than this; `GRACE` is in it."""
    since: datetime | None
    """When it was switched on; None: the orchestrator does not know it, or not yet."""
    ticked: datetime | None
    """When it last ticked; None: never."""
    failures: int = 0
    """How many of its newest ticks failed, without one between that did not."""
    error: str = ""
    """What the newest of these said."""


@dataclass(frozen=True)
class Run:
    """A run that has not ended."""

    id: str
    job: str
    state: Literal["queued", "running"]
    """`running`: also while it starts or is being cancelled."""
    created: datetime
    last_event: datetime
    attended: bool | None = None
    """Whether the process of a command that runs it itself is alive; None: a launched run."""


@dataclass(frozen=True)
class Waiting:
    """A run that was started, and has a pod that does not run, or gets none."""

    run: str
    job: str
    pod: str | None
    since: datetime
    reason: str
    """One word of Kubernetes', such as `Unschedulable` or `ImagePullBackOff`."""
    message: str


class Orchestrator(Protocol):
    """What is asked. Whatever it raises means that it cannot be told."""

    def heartbeats(self) -> Sequence[Heartbeat]:
        """Of every daemon that is required."""

    def watchers(self, now: datetime) -> Sequence[Watcher]:
        """Every sensor and schedule that should be switched on."""

    def runs(self) -> Sequence[Run]:
        """Every run that has not ended."""

    def waiting(self) -> Sequence[Waiting]:
        """Every run whose pod does not run; none where runs are not pods."""
