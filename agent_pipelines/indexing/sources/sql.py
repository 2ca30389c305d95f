"""Rows of a database, by any SQLAlchemy URL and one query.

Belongs here: listing and reading rows. Does not belong here: splitting SQL into statements (the
query is read as a subquery, which only a query can be).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from pydantic import Field, field_validator
from sqlalchemy import (
    URL,
    Connection,
    RowMapping,
    bindparam,
    column,
    select,
    text,
)
from sqlalchemy.types import NullType

from agent_pipelines.database import Database, one_select, parsed
from agent_pipelines.errors import UserError
from agent_pipelines.indexing import extraction
from agent_pipelines.indexing.sources import (
    Document,
    DocumentError,
    Ref,
    Source,
    SourceConfig,
    SourceError,
)

#: Rows fetched together: what a listing holds in memory.
_ROWS = 1_000

#: What ids may be: each is made from its own text, so a row is looked up by the type it has.
_ID_TYPES = (str, int, UUID, Decimal)


class Sql(SourceConfig):
    """The rows of a query, from any database that SQLAlchemy knows."""

    kind: Literal["sql"]
    url: str = Field(
        repr=False,
        description="SQLAlchemy URL of the database; a relative SQLite path starts at this YAML's "
        "folder. Time-outs are the driver's own, such as ?connect_timeout=10.",
        examples=["postgresql://reader:secret@db/tickets", "sqlite:///../../tickets.db"],
    )
    query: str = Field(
        description="One SELECT. Its columns: `id` (unique; text, a whole number or a UUID) and "
        "`text`; and if wanted `title`, `uri`, `version` (changes whenever the row does, such as "
        "the time of its last update), `metadata` (a JSON object) and `format` (markdown or text). "
        "Without `version` every listing reads every row whole, and a row's version is a digest of "
        "all its columns. A document is read by its id, so let the database filter by it: no "
        "LIMIT, and no aggregate that is costly to repeat.",
        examples=["SELECT id, body AS text, title, updated_at AS version FROM tickets"],
    )
    format: Literal["markdown", "text"] = Field(
        default="text", description="How texts are split where the query gives no `format`."
    )

    @field_validator("query")
    @classmethod
    def _one_select(cls, query: str) -> str:
        return one_select(query)

    def open(self, folder: Path) -> Source:
        """The source; a relative SQLite path is below `folder`."""
        return SqlSource(parsed(self.url, folder, "source.url"), self.query, self.format)


class SqlSource:
    """The rows that `query` gives at `url`.

    A document's id is the text of the row's. Nothing is connected before it is needed; a listing
    has a connection of its own that ends with it, loads share a pool.
    """

    def __init__(self, url: URL, query: str, default_format: str) -> None:
        self._database = Database(url, "source.url")
        self._format = default_format
        # A colon would begin a parameter; a comment at the end would swallow the parenthesis.
        verbatim = text(query.replace(":", r"\:") + "\n")
        self._query = verbatim.columns(column("id"), column("version")).subquery("q")
        self._id_type: type | None = None

    def check(self) -> None:
        """Connect, and see that the query gives the columns it must; no row is read."""
        engine = self._database.engine()
        try:
            connection = engine.connect()
        except Exception as error:  # every driver raises its own kinds
            said = self._database.said(error)
            raise UserError(
                f"source.url {self._database.shown} cannot be connected to: {said}",
                remedy="correct `url` in defs.yaml, or see that the database is up and lets us in",
            ) from error
        try:
            with connection:
                connection.detach()
                self._columns(connection)
        except SourceError as error:
            raise UserError(
                str(error), remedy="correct `query` in defs.yaml; name columns with AS"
            ) from error
        except Exception as error:  # every driver raises its own kinds
            raise UserError(
                f"source.query cannot be run as a subquery: {self._database.said(error)}",
                remedy="correct `query` in defs.yaml: one SELECT, which runs on that database",
            ) from error

    def list(self) -> Iterator[Ref]:
        """List the rows as the database streams them, in its own order."""
        try:
            with self._database.engine().connect() as connection:
                # Nobody else's from here on: closed with the listing, not kept for the next one.
                connection.detach()
                yield from self._refs(connection)
        except SourceError:
            raise
        except UserError as error:
            raise SourceError(error.message) from error
        except Exception as error:  # every driver raises its own kinds
            raise SourceError(
                f"{self._database.shown} cannot be listed: {self._database.said(error)}"
            ) from error

    def _refs(self, connection: Connection) -> Iterator[Ref]:
        columns = self._columns(connection)
        has_version = "version" in columns
        wanted = [self._query.c.id, self._query.c.version] if has_version else [text("*")]
        rows = connection.execution_options(yield_per=_ROWS).execute(
            select(*wanted).select_from(self._query)
        )
        at = 0 if has_version else columns.index("id")
        kind: type | None = None
        for row in rows:
            value = row[at]
            if type(value) is not kind or value == "":
                kind = self._id_type = _id_type(value, before=kind)
            if has_version:
                yield Ref(str(value), _text(row[1]), _instant(row[1]))
            else:
                said = _JSON.encode([columns, list(row)])
                yield Ref(str(value), hashlib.sha256(said.encode()).hexdigest()[:32])

    def _columns(self, connection: Connection) -> Sequence[str]:
        query = select(text("*")).select_from(self._query).limit(0)
        columns = list(connection.execute(query).keys())
        if any(columns.count(name) != 1 for name in ("id", "text")):
            raise SourceError(
                f"source.query gives the columns {', '.join(columns)}; "
                "it must give `id` and `text`, each once"
            )
        return columns

    def load(self, ref: Ref) -> Document:
        """Read one row."""
        try:
            with self._database.engine().connect() as connection:
                row = self._row(connection, ref.id)
        except UserError as error:
            raise DocumentError(error.message) from error
        except Exception as error:  # every driver raises its own kinds
            raise DocumentError(f"cannot be read: {self._database.said(error)}") from error
        if row is None:
            raise DocumentError("was deleted from the source while the sync ran")
        if not isinstance(row["text"], str | None):
            raise DocumentError(f"its `text` is of type {type(row['text']).__name__}, not text")
        format_ = row.get("format") or self._format
        if format_ not in ("markdown", "text"):
            raise DocumentError(f"its `format` is {format_!r}, neither markdown nor text")
        return Document(
            id=ref.id,
            version=ref.version,
            text=extraction.checked(row["text"] or ""),
            title=str(row.get("title") or ref.id),
            uri=str(row.get("uri") or ref.id),
            format=format_,
            metadata=_metadata(row.get("metadata")),
        )

    def _row(self, connection: Connection, id_: str) -> RowMapping | None:
        kind = self._id_type
        if kind is None:  # not listed by this process
            first = connection.execute(select(self._query.c.id).limit(1)).one_or_none()
            if first is None:
                return None
            kind = self._id_type = _id_type(first.id)
        try:
            # Looked up as what it is, not as text, so that the database uses its index.
            value = kind(id_)
        except (ValueError, ArithmeticError):
            return None
        # Without a type of SQLAlchemy's, which would add a cast: drivers know their own values,
        # and some databases give as text what they do not compare with text.
        same = self._query.c.id == bindparam("id", value, type_=NullType())
        rows = connection.execute(select(text("*")).select_from(self._query).where(same))
        # A collation may find `A` equal to `a`, which are two documents.
        return next((row for row in rows.mappings() if str(row["id"]) == id_), None)


def _id_type(value: Any, before: type | None = None) -> type:
    """The type of an id that is the first of its kind, or empty."""
    kind = type(value)
    if value is None or value == "":
        raise SourceError(f"source.query gives a row whose id is {value!r}")
    if kind not in _ID_TYPES:
        raise SourceError(
            f"source.query gives the id {value!r} of type {kind.__name__}; cast it to text there"
        )
    if before is not None:
        raise SourceError(
            f"source.query gives ids of two types, {before.__name__} and {kind.__name__} "
            f"({value!r}); cast them to text there"
        )
    return kind


def _text(value: Any) -> str:
    """The same text for the same value, in every process and time zone."""
    match value:
        case None:
            return "null"
        case datetime() if value.tzinfo is not None:
            return value.astimezone(UTC).isoformat()
        case date() | time():
            return value.isoformat()
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case dict() | list():
            return _JSON.encode(value)
        case str() | int() | float() | Decimal() | UUID() | timedelta():
            return str(value)
    # An object that shows its address would have a new version in every listing.
    raise TypeError(f"a value of type {type(value).__name__} must be cast to text in the query")


_JSON = json.JSONEncoder(sort_keys=True, default=_text)


def _instant(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) and value.tzinfo is not None else None


def _metadata(value: Any) -> Mapping[str, str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DocumentError(f"its `metadata` is not JSON: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DocumentError(f"its `metadata` is a JSON {type(value).__name__}, not an object")
    return {
        str(name): each if isinstance(each, str) else _JSON.encode(each)
        for name, each in value.items()
        if each is not None
    }
