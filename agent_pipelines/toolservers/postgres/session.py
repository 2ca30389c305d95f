"""Connections that cannot write, each call in a read-only transaction that is rolled back.

Belongs here: opening, watching, resetting and bounding connections, and telling an outage from a
statement's own failure. Does not belong here: which statements are run (`reading`, `catalogue`).
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.toolservers.postgres.settings import PostgresSettings

#: Calls at once; each holds a thread and a connection.
CONCURRENT = 8

#: A server that is slower to accept than this is as good as absent.
_CONNECT_SECONDS = 5

#: A statement that outlives its time is ended by the server; else asked to end; else left alone.
_ASK_AFTER, _LEAVE_AFTER = 0.5, 1.5

#: Waiting for a lock is waiting for nothing.
_LOCK_SECONDS = 2.0

#: After this a connection is made anew, and with it what its role may do is read again.
_LIFE_SECONDS = 600

Connection = psycopg.Connection[tuple[Any, ...]]


class Database:
    """A bounded number of connections to one database, opened when needed.

    ``check`` sees every new connection before anything else does, and raises to refuse it.
    """

    def __init__(self, settings: PostgresSettings, check: Callable[[Connection], None]) -> None:
        self._check = check
        self._timeout = settings.timeout_seconds
        given: dict[str, Any] = conninfo_to_dict(settings.url)
        self._password = str(given.get("password") or "")
        wanted: dict[str, Any] = {
            "connect_timeout": _CONNECT_SECONDS,
            "application_name": "agent-pipelines-tools",
            **given,
            "client_encoding": "UTF8",
            "options": f"{given.get('options') or ''} {_options(settings)}".strip(),
        }
        self._conninfo = make_conninfo(**wanted)
        self._idle: list[tuple[Connection, float]] = []
        # One more than the tools need: readiness must not wait for them.
        self._slots = threading.BoundedSemaphore(CONCURRENT + 1)

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """A connection inside a read-only transaction, as if nobody had used it before.

        Raises:
            UnavailableError: PostgreSQL does not answer.
            UserError: ``check`` refuses the connection, or the block could not be stopped in time.
            psycopg.Error: the block's own statements failed.
        """
        with self._slots:
            connection, since = self._taken()
            watch = _Watch(connection, self._timeout)
            try:
                with watch:
                    connection.execute("BEGIN TRANSACTION READ ONLY")
                    try:
                        yield connection
                    finally:
                        _reset(connection)
            except psycopg.Error as error:
                if not connection.closed:
                    raise
                if watch.left:
                    # The statement's fault or the server's? Only the latter fails here as well.
                    self._idle.append(self._connected())
                    raise too_slow(self._timeout) from error
                raise self._unavailable(error) from error
            finally:
                at_rest = connection.info.transaction_status == TransactionStatus.IDLE
                if at_rest and not watch.fired and time.monotonic() - since < _LIFE_SECONDS:
                    self._idle.append((connection, since))
                else:
                    connection.close()

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop()[0].close()

    def _taken(self) -> tuple[Connection, float]:
        while True:
            try:
                connection, since = self._idle.pop()
            except IndexError:  # asked of the list itself: several threads take from it
                return self._connected()
            # Something to read where nothing was asked is the server's good-bye.
            if not _readable(connection):
                return connection, since
            connection.close()

    def _connected(self) -> tuple[Connection, float]:
        try:
            connection = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        except psycopg.OperationalError as error:
            raise self._unavailable(error) from error
        try:
            with _Watch(connection, self._timeout):
                self._check(connection)
        except psycopg.Error as error:
            connection.close()
            raise self._unavailable(error) from error
        except UserError:
            connection.close()
            raise
        return connection, time.monotonic()

    def _unavailable(self, error: psycopg.Error) -> UnavailableError:
        said = " ".join(str(error).split()) or type(error).__name__
        if self._password:
            said = said.replace(self._password, "***")
        return UnavailableError(
            f"PostgreSQL does not answer: {said}", remedy="see that it is up and lets this role in"
        )


def too_slow(seconds: float) -> UserError:
    """What a statement is told that was stopped."""
    return UserError(
        f"the statement ran longer than {seconds:g} s and was stopped",
        remedy="read less: filter on an indexed column, aggregate over a shorter time, drop a "
        "join; `explain` shows what is costly",
    )


class _Watch:
    """Sees that a connection is not waited for forever, whatever became of the server.

    The server ends a statement by itself. If it does not it is asked to, and then the socket is
    shut, which ends the wait of whoever reads from it, even where a process is stopped.
    """

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.fired = self.left = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        # A request to end must not arrive when somebody else has the connection.
        self._thread.join()

    def _look(self) -> None:
        if self._done.wait(self._seconds + _ASK_AFTER):
            return
        self.fired = True
        with contextlib.suppress(psycopg.Error):  # that it cannot be asked is why it is left
            self._connection.cancel_safe(timeout=_LEAVE_AFTER / 2)
        if self._done.wait(_LEAVE_AFTER / 2):
            return
        self.left = True
        with (
            contextlib.suppress(OSError, psycopg.Error),  # closed in this very moment
            socket.socket(fileno=os.dup(self._connection.fileno())) as wire,
        ):
            wire.shutdown(socket.SHUT_RDWR)


def _reset(connection: Connection) -> None:
    """Leave nothing for the next call: no transaction, setting, lock, cursor or subscription."""
    if not connection.closed:
        connection.execute("ROLLBACK")
        connection.execute("DISCARD ALL")


def _readable(connection: Connection) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _options(settings: PostgresSettings) -> str:
    """Settings that the session begins with, so that `DISCARD ALL` returns to them."""
    milliseconds = max(1, round(settings.timeout_seconds * 1000))
    values = {
        "default_transaction_read_only": "on",
        "statement_timeout": milliseconds,
        "lock_timeout": min(milliseconds, round(_LOCK_SECONDS * 1000)),
        "idle_in_transaction_session_timeout": milliseconds + 5_000,
        # A statement whose caller has gone is ended.
        "client_connection_check_interval": 1_000,
        # So that our own questions call nothing but PostgreSQL's own; else a closer match counts.
        "search_path": "pg_catalog,pg_temp",
        # As the check of a statement reads it.
        "standard_conforming_strings": "on",
        # What one statement may take: it shares the machine with whom the database is for.
        "work_mem": "16MB",
        "max_parallel_workers_per_gather": 0,
        "jit": "off",
        # How values look.
        "bytea_output": "hex",
        "DateStyle": "ISO",
        "IntervalStyle": "iso_8601",
    }
    return " ".join(f"-c {name}={_escaped(str(value))}" for name, value in values.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
