"""One subject's own clock: it is looked at every interval, whatever becomes of the others.

Belongs here: the thread that looks, what it has seen last, and giving up one that hangs. Does not
belong here: what it looks at, or how that is shown.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Protocol

from agent_pipelines.health.evaluate import Recorded
from agent_pipelines.health.signal import Reading, Signal, State, cannot_tell

#: Intervals after which a look that has not come back is given up, and another one begun: whoever
#: it waits for may have gone without saying so, and then it waits for ever.
_GIVE_UP = 10

#: Threads that hang may pile up to this many; a subject that makes more is left alone.
_LEFT_BEHIND = 10


@dataclass(frozen=True)
class Sample:
    """One number beside the signals."""

    metric: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Look:
    """What one look at a subject saw."""

    readings: Mapping[Signal[Any], Reading]
    """Fresh ones, of depth `tick`."""
    known: Mapping[str, Recorded] = field(default_factory=dict)
    """What the state database has of this subject, these readings included, by signal; empty where
    it cannot be asked.
    """
    samples: Sequence[Sample] = ()


class Subject(Protocol):
    """Something that is looked at."""

    @property
    def name(self) -> str: ...

    @property
    def signals(self) -> Sequence[Signal[Any]]:
        """All of its signals, of both depths."""

    @property
    def audit_every(self) -> timedelta:
        """The longest time between two audits that others make of it; 0 where nobody does."""

    def look(self) -> Look:
        """Look at it now; may take any time, and may raise anything."""


@dataclass(frozen=True)
class Seen:
    """What a subject's last look saw, and when; immutable, so that a scrape sees one moment."""

    subject: str
    signals: Sequence[Signal[Any]]
    born: float
    """When it could have been looked at first; this and what follows in seconds of `monotonic`."""
    ended: float | None = None
    """When the last look ended; None before the first."""
    took: float = 0.0
    readings: Mapping[str, Recorded] = field(default_factory=dict)
    """By signal. Those of depth `audit` are the last that the state database gave."""
    samples: Sequence[Sample] = ()
    audit_every: timedelta = timedelta(0)
    """See `Subject`."""


class Worker:
    """Looks at one subject again and again, in a thread that ends with the process."""

    def __init__(
        self,
        subject: Subject,
        *,
        interval: float,
        finished: Callable[[], object],
        say: Callable[[str], object],
    ) -> None:
        """Args:
        subject: what it looks at; may be replaced by what it is called by then.
        interval: seconds from the beginning of one look to that of the next.
        finished: called after every look.
        say: told of every change of a signal.
        """
        self.subject = subject
        self.seen = Seen(
            subject.name, subject.signals, born=monotonic(), audit_every=subject.audit_every
        )
        self._interval = interval
        self._finished = finished
        self._say = say
        self._stopping = threading.Event()
        self._turn = 0
        self._threads: list[threading.Thread] = []
        self._began = monotonic()
        self._publishing = threading.Lock()

    def start(self) -> None:
        """Begin looking; again, when a look hangs."""
        self._turn += 1
        self._began = monotonic()
        thread = threading.Thread(
            target=self._work, args=(self._turn,), name=f"look {self.subject.name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Look no more; does not wait for the look that is under way."""
        self._stopping.set()

    def hangs(self, seconds: float) -> bool:
        """Whether it still looks when that much time has passed, after `stop`."""
        deadline = monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))
        return any(thread.is_alive() for thread in self._threads)

    @property
    def alive(self) -> bool:
        """Whether it looks, or would if it did not hang."""
        return self._threads[-1].is_alive()

    def give_up_what_hangs(self) -> None:
        """Leave a look that takes too long behind, and begin another."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        late = monotonic() - self._began > _GIVE_UP * self._interval
        if late and len(self._threads) <= _LEFT_BEHIND and not self._stopping.is_set():
            self._say(f"{self.subject.name}: a look hangs; it is given up, and begun again")
            self.start()

    def _work(self, turn: int) -> None:
        while not self._stopping.is_set():
            began = monotonic()
            subject = self.subject
            try:
                look = subject.look()
            except Exception as error:  # a fault of ours: seen, and not the end of the watch
                ticked = [signal for signal in subject.signals if signal.depth == "tick"]
                look = Look(cannot_tell(ticked, f"{type(error).__name__}: {error}"))
            with self._publishing:
                if turn != self._turn:
                    return  # given up, and come back after all
                self._publish(subject, look, began)
            self._finished()
            self._stopping.wait(max(0.0, began + self._interval - monotonic()))
            with self._publishing:
                if turn != self._turn:
                    return
                self._began = monotonic()

    def _publish(self, subject: Subject, look: Look, began: float) -> None:
        before, now = self.seen.readings, datetime.now(UTC)
        readings = dict(before)
        readings.update(look.known)
        for signal, reading in look.readings.items():
            at = _since(signal.name, reading.state, look.known, before, now)
            readings[signal.name] = Recorded(
                signal.name,
                reading.state,
                at,
                now,
                reading.observed,
                reading.expected,
                reading.evidence,
            )
            self._tell(signal.name, reading, before.get(signal.name))
        ended = monotonic()
        self.seen = replace(
            self.seen,
            signals=subject.signals,
            ended=ended,
            took=ended - began,
            readings=readings,
            samples=look.samples,
            audit_every=subject.audit_every,
        )

    def _tell(self, name: str, reading: Reading, before: Recorded | None) -> None:
        was = before.state if before else State.TRUE
        if reading.state is not was:
            self._say(f"{self.subject.name} {name}: {was} → {reading.state} ({reading.observed})")


def _since(
    name: str,
    state: State,
    known: Mapping[str, Recorded],
    before: Mapping[str, Recorded],
    now: datetime,
) -> datetime:
    """Since when it has been so: as recorded, or, where that is not to be had, as remembered."""
    for readings in (known, before):
        if name in readings and readings[name].state is state:
            return readings[name].since
    return now


class Fleet:
    """All the workers, and the thread that gives up those of their looks that hang."""

    def __init__(self, *, interval: float, say: Callable[[str], object]) -> None:
        self._interval = interval
        self._say = say
        self._workers: dict[str, Worker] = {}
        self._counting = threading.Lock()
        self.sequence = 0
        """How many looks have ended, of all subjects together."""
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def watch(self, subjects: Sequence[Subject]) -> None:
        """Look at these from now on, and no more at others."""
        with self._lock:
            if self._stopping.is_set():
                return
            wanted = {subject.name: subject for subject in subjects}
            for name in self._workers.keys() - wanted.keys():
                self._workers.pop(name).stop()
            for name, subject in wanted.items():
                if name in self._workers:
                    self._workers[name].subject = subject
                    continue
                self._workers[name] = Worker(
                    subject, interval=self._interval, finished=self._advance, say=self._say
                )
                self._workers[name].start()

    def supervise(self) -> None:
        """Begin giving up looks that hang."""
        threading.Thread(target=self._supervise, name="supervise", daemon=True).start()

    def stop(self, patience: float) -> bool:
        """Look no more; whether every look has ended within that many seconds."""
        with self._lock:
            self._stopping.set()
            workers = list(self._workers.values())
        for worker in workers:
            worker.stop()
        return not any(worker.hangs(patience / len(workers)) for worker in workers)

    @property
    def seen(self) -> Sequence[Seen]:
        """What was seen last of each subject."""
        return [worker.seen for worker in tuple(self._workers.values())]

    @property
    def alive(self) -> bool:
        return all(worker.alive for worker in tuple(self._workers.values()))

    def _advance(self) -> None:
        with self._counting:
            self.sequence += 1

    def _supervise(self) -> None:
        while not self._stopping.wait(self._interval):
            for worker in tuple(self._workers.values()):
                worker.give_up_what_hangs()
