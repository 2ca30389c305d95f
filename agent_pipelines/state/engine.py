"""Opening the state database: pragmas, transactions and the schema at its newest version.

Belongs here: URL → migrated `Engine`, and the transactions everyone uses: `read()` and `write()`.
Does not belong here: what is read or written.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)

from agent_pipelines.errors import UnavailableError, UserError

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

#: Serialises two processes that migrate one PostgreSQL at once; the number is arbitrary, fixed.
_MIGRATION_LOCK = 7_205_931

#: Seconds a writer waits for another one before SQLite gives up.
_BUSY_TIMEOUT = 30.0

_USE = "use sqlite:///path/state.db or postgresql+psycopg2://user:password@host/db"

#: The password in what may not even be a URL.
_PASSWORD = re.compile(r":[^:/@]*@")


def open_engine(url: str) -> Engine:
    """Open the state database and bring its schema to the newest version.

    Raises:
        UserError: the URL is malformed, or the schema is newer than this program.
        UnavailableError: the database does not answer or cannot be written.
    """
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError) as error:  # ValueError: a port that is no number
        raise UserError(
            f"STATE_DATABASE_URL is not a SQLAlchemy URL: {_PASSWORD.sub(':***@', url)!r}",
            remedy=_USE,
        ) from error
    sqlite = parsed.get_backend_name() == "sqlite"
    shown = parsed.render_as_string(hide_password=True)
    try:
        if file := _file(parsed) if sqlite else None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        engine = create_engine(
            parsed,
            pool_pre_ping=not sqlite,
            connect_args={"timeout": _BUSY_TIMEOUT} if sqlite else {},
        )
        if sqlite:
            _configure_sqlite(engine)
        _migrate(engine)
    except (ArgumentError, ImportError) as error:  # no such dialect; its driver is not installed
        raise UserError(
            f"the state database {shown} is of a kind that cannot be used: {error}", remedy=_USE
        ) from error
    except (DBAPIError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise UnavailableError(
            f"the state database {shown} cannot be used: {cause}",
            remedy="check that it is reachable and writable, or set STATE_DATABASE_URL or "
            "AGENT_PIPELINES_STATE_DIR to one that is",
        ) from error
    return engine


def unpooled(engine: Engine) -> Engine:
    """The same database, over connections that nobody has used before."""
    afresh = create_engine(engine.url, poolclass=NullPool)
    if engine.dialect.name == "sqlite":
        _configure_sqlite(afresh)
    return afresh


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """One writing transaction; commits on leaving, rolls back on an exception.

    On SQLite it takes the write lock at once: a transaction that reads first and writes later
    fails instead of waiting when another writer came between.

    Raises:
        UnavailableError: the database does not answer, or has no time for us.
    """
    with _answering(engine), engine.execution_options(write=True).begin() as connection:
        yield connection


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """One reading transaction: all its queries see the same moment. It blocks no writer.

    Raises:
        UnavailableError: the database does not answer.
    """
    with _answering(engine), engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


def alone(connection: Connection, key: int) -> None:
    """Wait for every other transaction that has asked for this key. On SQLite a writer is alone."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": key})


@contextmanager
def _answering(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        shown = engine.url.render_as_string(hide_password=True)
        raise UnavailableError(
            f"the state database {shown} cannot be used: {error.orig}",
            remedy="check that it is up, reachable and writable",
        ) from error


def _file(url: URL) -> Path | None:
    """Where a SQLite database lies, if not in memory."""
    name = url.database
    return None if not name or name == ":memory:" or name.startswith("file:") else Path(name)


def _configure_sqlite(engine: Engine) -> None:
    if file := _file(engine.url):

        @event.listens_for(engine, "do_connect")
        def on_connecting(_dialect: Any, _record: Any, arguments: Any, more: Any) -> None:
            # Not `rwc`, the default: where the file is gone, whoever had it open would make an
            # empty one in the place that a person is about to restore it to.
            arguments[0] = f"{file.absolute().as_uri()}?mode=rw"
            more["uri"] = True

    @event.listens_for(engine, "connect")
    def on_connect(dbapi_connection: Any, _record: Any) -> None:
        # The driver's own transaction handling commits around DDL; ours begins below.
        dbapi_connection.isolation_level = None
        cursor = dbapi_connection.cursor()
        # WAL: readers (status, sensor, tool server) never block the one writer.
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def schema_versions(engine: Engine) -> tuple[str | None, str | None]:
    """The version of the schema in the database, None where it has none, and this program's own."""
    from alembic.migration import MigrationContext

    head = _script().get_current_head()
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision(), head


@lru_cache
def _script() -> "ScriptDirectory":
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "agent_pipelines.state:migrations")
    return config


def _migrate(engine: Engine) -> None:
    # Imported here: most commands find the schema current and need no migration engine at all
    # beyond this comparison, but the comparison itself needs the script directory.
    from alembic import command
    from alembic.util import CommandError

    current, head = schema_versions(engine)
    if current == head:
        return
    try:
        if current is not None:
            _script().get_revision(current)
    except CommandError as error:
        raise UserError(
            f"the state database has schema version {current}, newer than this program's {head}",
            remedy="upgrade agent-pipelines to the version that wrote it",
        ) from error
    config = _config()
    with write(engine) as connection:
        alone(connection, _MIGRATION_LOCK)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
