"""The machinery as one evaluation sees it: orchestrator, state database, disk, clock, assets.

Belongs here: looking at each of them at most once on behalf of `machinery/`, and what it remembers
from one look to the next. Does not belong here: judging what was seen.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, wraps
from pathlib import Path

from sqlalchemy import Engine

from agent_pipelines.health.orchestration import Heartbeat, Orchestrator, Run, Waiting, Watcher
from agent_pipelines.health.signal import Reading, State
from agent_pipelines.state.canary import present

#: The subject under which readings of the machinery are recorded; no index can be called so.
SUBJECT = "machinery"

#: Whoever looks once and has no memory has, for all it knows, always been looking.
ALWAYS = datetime.fromtimestamp(0, UTC)


@dataclass
class Memory:
    """What a watcher that looks again and again remembers."""

    since: datetime = ALWAYS
    """Since when it has been looking without a gap. What fell asleep with it needs time to wake."""
    canary: int = 0
    """The last one that the state database gave back."""
    looked: datetime | None = None

    def look(self, now: datetime, *, longest: timedelta) -> None:
        """Note that it looks now; after a longer pause than that it begins anew.

        Also where the clock went back: how long it has been looking is not known then.
        """
        if self.looked is None or not timedelta(0) <= now - self.looked <= longest:
            self.since = now
        self.looked = now


class Machinery:
    """What one evaluation of the machinery's signals looks at. Use it as a context manager."""

    subject = SUBJECT
    undisturbed = True

    def __init__(
        self,
        *,
        state_dir: Path,
        state: Callable[[], Engine],
        orchestrator: Callable[[], AbstractContextManager[Orchestrator]] | None,
        broken: Mapping[str, str],
        memory: Memory | None = None,
    ) -> None:
        """What is handed in is opened when a signal asks for it.

        Args:
            state_dir: the folder that must take writes.
            state: opens the state database; may raise UserError.
            orchestrator: opens it; None where no daemon is expected to run.
            broken: why a folder of the assets could not be loaded, by its name.
            memory: of the watcher that looks, if it looks more than once.
        """
        self.now = datetime.now(UTC)
        self.state_dir = state_dir
        self.broken = broken
        self.memory = memory or Memory()
        self._state = state
        self._orchestrator = orchestrator
        self._held = ExitStack()

    def __enter__(self) -> "Machinery":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @cached_property
    def engine(self) -> Engine:
        """The state database; raises UserError where it cannot be opened, or is gone."""
        return present(self._state())

    @property
    def watched(self) -> timedelta:
        """For how long there has been a look at it without a gap."""
        return self.now - self.memory.since

    @property
    def daemon_expected(self) -> bool:
        return self._orchestrator is not None

    @cached_property
    def _asked(self) -> Orchestrator:
        assert self._orchestrator is not None
        return self._held.enter_context(self._orchestrator())

    @cached_property
    def heartbeats(self) -> Sequence[Heartbeat]:
        return self._asked.heartbeats()

    @cached_property
    def watchers(self) -> Sequence[Watcher]:
        return self._asked.watchers(self.now)

    @cached_property
    def runs(self) -> Sequence[Run]:
        return self._asked.runs()

    @cached_property
    def waiting(self) -> Sequence[Waiting]:
        return self._asked.waiting()


def where_expected(judge: Callable[[Machinery], Reading]) -> Callable[[Machinery], Reading]:
    """Judge the orchestrator only where a daemon is expected; after a plain `run` none is."""

    @wraps(judge)
    def evaluate(view: Machinery) -> Reading:
        if not view.daemon_expected:
            here = "neither `dev` nor a deployment's daemon is expected here"
            return Reading(State.TRUE, here, "nothing")
        return judge(view)

    return evaluate


def in_time(
    late: Sequence[Mapping[str, str]],
    *,
    watched: timedelta,
    patience: timedelta,
    fine: str,
    said: str,
    expected: str,
) -> Reading:
    """True where nothing is late, with what is late as evidence where something is.

    Who has looked for less than `patience` sees a beginning, or an awakening, and cannot tell.
    """
    if not late:
        return Reading(State.TRUE, fine, expected)
    state = State.FALSE if watched >= patience else State.CANNOT_TELL
    return Reading(state, said, expected, late)


def ago(moment: datetime | None, now: datetime) -> str:
    """As evidence says it."""
    return "never" if moment is None else f"{max(0.0, (now - moment).total_seconds()):.0f} s ago"
