"""One writer per name, across processes and machines.

Belongs here: taking, keeping and giving up a lease in the state database. Its token only grows
(Kleppmann's fencing token): whoever lost the lease finds out at the next `renew`.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

import psutil
from sqlalchemy import Connection, Engine, select, update

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.state.engine import alone, read, write
from agent_pipelines.state.tables import leases
from agent_pipelines.state.upsert import upsert

logger = logging.getLogger(__name__)

#: A holder that is silent this long has lost the lease: the run that follows a killed pod waits for
#: no more than that, with its GPU.
_TERM = timedelta(minutes=1)
_RENEW_EVERY = 10.0

#: Seconds between two looks at a lease that is waited for.
_LOOK_EVERY = 1.0

#: Takes happen one after the other, so that rivals see each other; the number is arbitrary, fixed.
_LOCK = 7_205_932

#: Seconds by which the start of a process may seem to move when the system's clock is set.
_CLOCK_STEP = 60


#: Called in every transaction of one writer, which goes no further where it raises.
Fence = Callable[[Connection], None]


def unfenced(_connection: Connection) -> None:
    """Of writers that hold no lease: a key tells what they write apart."""


class LeaseLostError(Exception):
    """Another writer took over; this one must stop without touching anything more."""


@dataclass(frozen=True)
class Lease:
    """Proof of being the one writer, for as long as `renew` succeeds."""

    engine: Engine
    name: str
    token: int
    taken_over: bool
    """Whether the holder before this one never gave it up: it was killed, or may write still."""

    def renew(self) -> None:
        """Keep the lease for another term.

        Raises:
            LeaseLostError: another writer has taken it.
        """
        with write(self.engine) as connection:
            kept = connection.execute(
                update(leases)
                .where(leases.c.name == self.name, leases.c.token == self.token)
                .values(expires_at=datetime.now(UTC) + _TERM)
            )
        if kept.rowcount != 1:
            raise LeaseLostError(f"another writer took over {self.name}")

    def check(self, connection: Connection) -> None:
        """Let a transaction go on only while this is the one writer; none can take over meanwhile.

        Raises:
            LeaseLostError: another writer has taken it.
        """
        token = connection.scalar(
            select(leases.c.token).where(leases.c.name == self.name).with_for_update()
        )
        if token != self.token:
            raise LeaseLostError(f"another writer took over {self.name}")


class _HeldError(Exception):
    """Somebody has it, or a rival."""

    def __init__(self, name: str, holder: str, expires_at: datetime) -> None:
        super().__init__(name)
        self.name = name
        self.holder = holder
        self.expires_at = expires_at

    @property
    def may_lapse(self) -> bool:
        """Whether its holder may be dead, and the lease soon be over without anybody's doing."""
        return not _is_here(self.holder) and self.expires_at <= datetime.now(UTC) + _TERM


def _no_rival(_name: str) -> bool:
    return False


@contextmanager
def hold(engine: Engine, name: str, *, rival: Callable[[str], bool] = _no_rival) -> Iterator[Lease]:
    """Hold the lease for the length of the block.

    Where nobody here can tell whether its holder lives, as of another pod, that is waited for: it
    renews the lease within seconds, or loses it after a minute.

    Args:
        engine: the state database.
        name: what is written.
        rival: tells by its name whether another lease must not be held at the same time.

    Raises:
        UserError: someone else holds it, or a rival; the message says who.
    """
    lease = _take_or_wait(engine, name, rival)
    done = Event()
    # Kept by a thread: a listing or one call of a model may take longer than the lease lasts.
    keeper = Thread(target=_keep, args=(lease, done), name=f"lease {name}", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        done.set()
        keeper.join()
        with write(engine) as connection:
            connection.execute(
                update(leases)
                .where(leases.c.name == name, leases.c.token == lease.token)
                .values(expires_at=datetime.now(UTC), holder="")
            )


def is_held(engine: Engine, name: str) -> bool:
    """Whether somebody writes under this name, or a part of what it names (`index docs 2/4`)."""
    columns = leases.c
    mine = (columns.name == name) | columns.name.startswith(f"{name} ", autoescape=True)
    query = select(columns.holder).where(
        mine, columns.holder != "", columns.expires_at > datetime.now(UTC)
    )
    with read(engine) as connection:
        return any(not is_dead(holder) for holder in connection.scalars(query))


def _keep(lease: Lease, done: Event) -> None:
    while not done.wait(_RENEW_EVERY):
        # Whoever holds a lost lease is told by its own next step; a database that does not answer
        # now may answer next time.
        with suppress(LeaseLostError, UnavailableError):
            lease.renew()


def _take_or_wait(engine: Engine, name: str, rival: Callable[[str], bool]) -> Lease:
    seen: dict[tuple[str, str], datetime] = {}
    while True:
        try:
            return _take(engine, name, rival)
        except _HeldError as held:
            by = (held.name, held.holder)
            if by not in seen and held.may_lapse:
                logger.info("%s is held by %s: waiting to see whether that lives", *by)
                seen[by] = held.expires_at
            if seen.get(by) != held.expires_at:
                raise UserError(
                    f"{held.name} is being written by {held.holder} "
                    f"(until {held.expires_at:%H:%M:%S} UTC at least)",
                    remedy="wait for it to finish, or end that process",
                ) from None
        time.sleep(_LOOK_EVERY)


def _take(engine: Engine, name: str, rival: Callable[[str], bool]) -> Lease:
    now = datetime.now(UTC)
    with write(engine) as connection:
        alone(connection, _LOCK)
        # A row that nobody holds, so that there is one to lock the first time too.
        nobody = {"name": name, "token": 0, "holder": "", "expires_at": now}
        upsert(connection, leases, [nobody], overwrite=("name",))
        held = connection.execute(
            select(leases.c.token, leases.c.holder, leases.c.expires_at)
            .where(leases.c.name == name)
            .with_for_update()
        ).one()
        _refuse(name, held.holder, held.expires_at, now)
        for other in connection.execute(select(leases)):
            if rival(other.name):
                _refuse(other.name, other.holder, other.expires_at, now)
        token: int = held.token + 1
        values = {"token": token, "holder": this_process(), "expires_at": now + _TERM}
        connection.execute(update(leases).where(leases.c.name == name).values(**values))
    return Lease(engine, name, token, taken_over=bool(held.holder))


def _refuse(name: str, holder: str, expires_at: datetime, now: datetime) -> None:
    # One that was given up says when, which lies ahead where a clock has gone back since.
    if holder and expires_at > now and not is_dead(holder):
        raise _HeldError(name, holder, expires_at)


def this_process() -> str:
    """Who holds a lease that this process takes: where it runs, its id, and when it started."""
    started = int(psutil.Process().create_time())
    return f"{_here()} pid {os.getpid()} started {started}"


def is_dead(holder: str) -> bool:
    """Whether the holder is a process beside this one that no longer runs (kill -9)."""
    if not _is_here(holder):
        return False
    pid, _, started = holder.partition(" pid ")[2].partition(" started ")
    try:
        return abs(psutil.Process(int(pid)).create_time() - int(started)) > _CLOCK_STEP
    except psutil.NoSuchProcess:
        return True


def _is_here(holder: str) -> bool:
    return holder.partition(" pid ")[0] == _here()


def _here() -> str:
    """Within which a process id means something: on Linux a pid namespace, for two containers may
    have the name of their host in common.
    """
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()
