"""A row that proves the state database: written over one connection, read back over another.

Belongs here: the row, and what the schema looks like from outside. Does not belong here: what
follows from it (`health/machinery/state_database_writable.py`).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, inspect, select

from agent_pipelines.errors import UnavailableError
from agent_pipelines.state.engine import read, schema_versions, unpooled, write
from agent_pipelines.state.tables import leases, metadata
from agent_pipelines.state.upsert import upsert

#: A lease that nobody ever holds; its token only grows, as those of all leases do.
_NAME = "canary"


@dataclass(frozen=True)
class Proof:
    """What the state database did with the canary."""

    written: int
    """The canary's token, as it was written."""
    found: int | None
    """As somebody finds it who connects now; None: there is none."""
    missing: tuple[str, ...]
    """Tables that are not there."""
    version: str | None
    newest: str | None
    """The schema's version, and the one that this program has."""


def present(engine: Engine) -> Engine:
    """The engine, where there is a database behind it.

    Connections that were open when the file of a SQLite database went would go on without it.

    Raises:
        UnavailableError: its file is gone.
    """
    file = engine.url.database
    if engine.dialect.name == "sqlite" and file and not Path(file).exists():
        engine.dispose()
        raise UnavailableError(
            f"the file of the state database, {file}, is gone", remedy="restore it"
        )
    return engine


def prove(engine: Engine) -> Proof:
    """Write the canary and read it back.

    A connection that was open when the file of a SQLite database was replaced or removed goes on
    working on what nobody else will ever see: it is compared with one that is new, and let go.

    Raises:
        UnavailableError: the database cannot be written.
    """
    written = _write(engine)
    afresh = unpooled(engine)
    with read(afresh) as connection:
        tables = inspect(connection).get_table_names()
        found = (
            connection.scalar(select(leases.c.token).where(leases.c.name == _NAME))
            if leases.name in tables
            else None
        )
    version, newest = schema_versions(afresh)
    if found != written:
        engine.dispose()
    missing = tuple(sorted(set(metadata.tables) - set(tables)))
    return Proof(written, found, missing, version, newest)


def _write(engine: Engine) -> int:
    with write(engine) as connection:
        row = {"name": _NAME, "token": 1, "holder": "", "expires_at": datetime.now(UTC)}
        upsert(connection, leases, [row], overwrite=("expires_at",), add=("token",))
        token: int = connection.execute(
            select(leases.c.token).where(leases.c.name == _NAME)
        ).scalar_one()
    return token
