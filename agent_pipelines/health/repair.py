"""Which run would make an index true again, and how often it is asked for.

Belongs here: readings → what is wanted, the back-off, and the record of what was tried. Does not
belong here: starting a run (`components/index_sensor.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import Engine, delete, select

from agent_pipelines.health.evaluate import Recorded
from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.state.engine import read, write
from agent_pipelines.state.tables import repairs
from agent_pipelines.state.upsert import upsert

#: Before a run is asked for again that did not help: doubled after each, up to a cap.
BACK_OFF, BACK_OFF_CAP = timedelta(seconds=30), timedelta(minutes=30)

#: After so many attempts somebody must look. It is tried on, as seldom as the cap allows.
GIVES_UP_AFTER = 8

#: What is asked for in the name of no signal: a sync that stopped before its end, or was not
#: committed; and a look at what a repair has helped.
UNFINISHED, UNCONFIRMED = "unfinished_sync", "unconfirmed_repair"

Kind = Literal["sync", "verify", "commit", "audit"]


@dataclass(frozen=True)
class Want:
    """A run that would help."""

    because: str
    """The signal that asks for it."""
    kind: Kind
    counts_as: str
    """What its attempts are counted under."""


@dataclass(frozen=True)
class Attempts:
    """What was tried for one signal since it last was not false."""

    signal: str
    attempts: int
    asked_at: datetime
    reached: str
    """How far the index was when a run was last asked for."""

    @property
    def next_at(self) -> datetime:
        """When a run may be asked for again."""
        doublings: int = min(self.attempts - 1, 30)  # more would overflow, long after the cap
        return self.asked_at + min(BACK_OFF * (1 << doublings), BACK_OFF_CAP)

    @property
    def gave_up(self) -> bool:
        """Whether it takes a person."""
        return self.attempts >= GIVES_UP_AFTER


@dataclass(frozen=True)
class Seen:
    """What is known of an index when it is decided what to run."""

    readings: Mapping[Signal, Reading]
    """Of this tick."""
    recorded: Mapping[str, Recorded]
    """The last reading of every signal, by name."""
    unfinished: bool
    """A sync stopped before its end."""
    pending: bool
    """A sync that ended was not committed."""
    changed: bool
    """The source has changes that are not live."""
    split: bool
    """The index has partitions, and its commit a job of its own."""
    last_run: datetime | None
    """When the newest sync or commit that has ended began."""
    reached: str
    """Changes with every sync that changed something and with every commit."""


def wanted(seen: Seen, tried: Mapping[str, Attempts], now: datetime) -> Want | None:
    """The most urgent run that may be asked for now."""
    return next((want for want in _wants(seen, tried) if _may_ask(seen, tried, want, now)), None)


def _wants(seen: Seen, tried: Mapping[str, Attempts]) -> Iterator[Want]:
    """Everything that would help, what mends most first."""
    false, unconfirmed = _false(seen)
    kinds: tuple[Kind, ...] = ("verify", "sync")
    for kind in kinds:
        for signal in false:
            # Changes are synced as soon as they are seen, not only once they are too old.
            if signal.repair == kind and signal.name != "fresh":
                yield Want(signal.name, kind, signal.name)
    if seen.unfinished or seen.pending:
        before = tried.get(UNFINISHED)
        failed = before.attempts if before and not _helped(seen, before) else 0
        # A commit that fails must not keep the syncs from running that would mend it.
        commits = seen.pending and seen.split and failed % 2 == 0
        yield Want(UNFINISHED, "commit" if commits else "sync", UNFINISHED)
    if seen.changed:
        yield Want("fresh", "sync", "fresh")
    for signal in unconfirmed:
        yield Want(signal.name, "audit", UNCONFIRMED)


def _false(seen: Seen) -> tuple[list[Signal], list[Signal]]:
    """Signals that are false, and those of which nobody knows since the last run."""
    false: list[Signal] = []
    unconfirmed: list[Signal] = []
    for signal in catalogue():
        if signal.depth == "tick":
            reading = seen.readings.get(signal)
            if reading is not None and reading.state is State.FALSE:
                false.append(signal)
            continue
        before = seen.recorded.get(signal.name)
        if before is None or before.state is not State.FALSE or signal.repair == "person":
            continue
        newer = seen.last_run is None or before.evaluated_at > seen.last_run
        (false if newer else unconfirmed).append(signal)
    return false, unconfirmed


def _may_ask(seen: Seen, tried: Mapping[str, Attempts], want: Want, now: datetime) -> bool:
    before = tried.get(want.counts_as)
    if before is None or _helped(seen, before):
        return True
    # A clock that was set back must not hold repairs off.
    return now >= before.next_at or now < before.asked_at


def _helped(seen: Seen, before: Attempts) -> bool:
    """Whether the last run got anywhere: what is wanted now was not tried yet.

    A sync that moves the index on is progress where the index is behind, and not where something
    else is wrong with it.
    """
    if before.signal == UNCONFIRMED:
        return before.reached != _since(seen)
    return before.signal in ("fresh", UNFINISHED) and before.reached != seen.reached


def over(seen: Seen, tried: Mapping[str, Attempts]) -> list[str]:
    """Of what was tried, that which is no longer wanted; what cannot be told still is."""
    still = {want.counts_as for want in _wants(seen, tried)}
    unknown = {s.name for s, r in seen.readings.items() if r.state is State.CANNOT_TELL}
    audits = {signal.name for signal in catalogue() if signal.depth == "audit"}
    unknown |= {
        name
        for name, before in seen.recorded.items()
        if name in audits and before.state is not State.TRUE
    }
    return [name for name in tried if name not in still | unknown]


def asked(seen: Seen, tried: Mapping[str, Attempts], want: Want, now: datetime) -> Attempts:
    """What was tried once this run was asked for."""
    before = tried.get(want.counts_as)
    again = before is not None and not _helped(seen, before)
    return Attempts(
        want.counts_as,
        attempts=before.attempts + 1 if before and again else 1,
        asked_at=now,
        reached=_since(seen) if want.counts_as == UNCONFIRMED else seen.reached,
    )


def _since(seen: Seen) -> str:
    return seen.last_run.astimezone(UTC).isoformat() if seen.last_run else ""


def attempts(engine: Engine, index: str) -> dict[str, Attempts]:
    """What was tried for each signal of an index that is not true again yet.

    Raises:
        UnavailableError: the state database does not answer.
    """
    query = select(repairs).where(repairs.c.index_name == index)
    with read(engine) as connection:
        return {
            row.signal: Attempts(row.signal, row.attempts, row.asked_at, row.reached)
            for row in connection.execute(query)
        }


def remember(engine: Engine, index: str, *, now: Attempts | None, over: list[str]) -> None:
    """Record an attempt, and forget those for what is over."""
    if now is None and not over:
        return
    with write(engine) as connection:
        connection.execute(
            delete(repairs).where(repairs.c.index_name == index, repairs.c.signal.in_(over))
        )
        if now is not None:
            row = {
                "index_name": index,
                "signal": now.signal,
                "attempts": now.attempts,
                "asked_at": now.asked_at,
                "reached": now.reached,
            }
            columns = ("attempts", "asked_at", "reached")
            upsert(connection, repairs, [row], overwrite=columns)
