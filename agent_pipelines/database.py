"""Somebody else's database, by a SQLAlchemy URL: its engine, and its words.

Belongs here: what a person may write, and what can be said of it without a password. Does not
belong here: what is read of it, or our own state database (`state/engine.py`).
"""

import re
from pathlib import Path
from threading import Lock
from urllib.parse import quote

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from agent_pipelines.errors import UserError

#: Packages whose driver has another name than they have.
_PACKAGES = {
    "MySQLdb": "mysqlclient",
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
}

#: The first word of a query, after what may stand before it.
_FIRST_WORD = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(\w*)", re.DOTALL)


def one_select(query: str) -> str:
    """The query, without the semicolon at its end.

    Raises:
        ValueError: it is no SELECT.
    """
    query = query.strip().rstrip("; \n\t\r")
    found = _FIRST_WORD.match(query)
    first = found[1] if found else ""
    if first.upper() not in ("SELECT", "WITH"):
        raise ValueError(f"must be one SELECT (or WITH … SELECT), not {first or 'nothing'!r}")
    return query


def parsed(url: str, folder: Path, field: str) -> URL:
    """What a person wrote as `field` in YAML; a relative SQLite path is below `folder`.

    Raises:
        UserError: it is no SQLAlchemy URL.
    """
    try:
        found = make_url(url)
    except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        # Where a password would be in it cannot be told.
        shown = url if not {"@", "?"} & {*url} else url.partition(":")[0] + ":…"
        raise UserError(
            f"{field} {shown!r} is not a SQLAlchemy URL",
            remedy="write it as dialect://user:password@host/database, with %40 for an @ in the "
            "password; or sqlite:///path",
        ) from error
    if found.drivername == "postgresql":
        # SQLAlchemy would take psycopg 3; this one comes with the program.
        return found.set(drivername="postgresql+psycopg2")
    if found.get_backend_name() == "sqlite" and found.database:
        if found.database.startswith((":", "file:")):
            return found
        path = (folder / Path(found.database).expanduser()).resolve()
        # Only read: a file that is not there must not come into being, empty.
        return found.set(database=f"file:{quote(str(path))}").update_query_dict(
            {"mode": "ro", "uri": "true"}
        )
    return found


class Database:
    """A database that is connected to when it is needed. Safe to use from several threads."""

    def __init__(self, url: URL, field: str) -> None:
        self._url = url
        self._field = field
        # Options may hold secrets of their own.
        self.shown = url.set(query={}).render_as_string(hide_password=True)
        self._engine: Engine | None = None
        self._opening = Lock()

    def engine(self) -> Engine:
        """The engine; connects to nothing.

        Raises:
            UserError: its driver is not installed, or cannot be used here.
        """
        with self._opening:
            if self._engine is None:
                self._engine = self._engine_of_url()
            return self._engine

    def _engine_of_url(self) -> Engine:
        try:
            engine = create_engine(self._url, pool_pre_ping=True, hide_parameters=True)
        except NoSuchModuleError as error:
            raise UserError(
                f"{self._field} {self.shown} is of a kind that SQLAlchemy does not know",
                remedy="correct its beginning, or install the package that adds the kind",
            ) from error
        except ModuleNotFoundError as error:
            raise UserError(
                f"{self._field} {self.shown} needs the driver {error.name}, which is not installed",
                remedy=f"pip install '{_PACKAGES.get(str(error.name), error.name)}'",
            ) from error
        except (ArgumentError, ImportError) as error:
            raise UserError(
                f"{self._field} {self.shown} cannot be used: {self.said(error)}",
                remedy="correct `url` in defs.yaml",
            ) from error
        if engine.dialect.is_async:
            raise UserError(
                f"{self._field} {self.shown} names an asyncio driver",
                remedy="name one that is not, such as postgresql+psycopg2 or mysql+pymysql",
            )
        return engine

    def said(self, error: BaseException) -> str:
        """The database's own words, in one line, without the password."""
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        said = " ".join(str(cause).split()) or type(cause).__name__
        password = self._url.password
        return said.replace(str(password), "***") if password else said
