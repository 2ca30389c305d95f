"""The PostgreSQL tools, their descriptions and the words of their errors.

Belongs here: what a model is offered and told. Does not belong here: what may be run and how
(`statement`, `names`, `reading`), or how a server is served (`shell`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeVar

import anyio
import anyio.to_thread
import psycopg
from mcp.server import MCPServer
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from psycopg import errors
from pydantic import BaseModel, Field

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.toolservers.outcome import outage
from agent_pipelines.toolservers.postgres import catalogue, names, reading, role, statement
from agent_pipelines.toolservers.postgres.session import (
    CONCURRENT,
    Connection,
    Database,
    too_slow,
)
from agent_pipelines.toolservers.postgres.settings import PostgresSettings
from agent_pipelines.toolservers.server import Opened, Readiness

Answer = TypeVar("Answer", bound=BaseModel)

#: The same query may give other rows when the data changed, and changes nothing itself.
_READ_ONLY = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)

Sql = Annotated[
    str,
    Field(
        min_length=1,
        description="One SELECT (or WITH … SELECT, VALUES) in PostgreSQL's dialect, with "
        "PostgreSQL's own functions only.",
    ),
]


class ResultColumn(BaseModel):
    """A column of a result."""

    name: str
    type: str


class Rows(BaseModel):
    """The rows of a query, or the first of them."""

    columns: list[ResultColumn]
    rows: list[list[reading.Value]] = Field(
        description="In the order of `columns`. Numbers of type numeric, times, JSON and all other "
        "types are text."
    )
    row_count: int = Field(description="Of the rows here.")
    truncated: bool = Field(description="True: there are more rows than are here.")
    cut_values: int = Field(description="Values here of which the end is missing.")
    note: str | None = Field(description="What is missing, and how to get it.")


class ListedTable(BaseModel):
    """A table, or what can be read like one."""

    table: str = Field(description="schema.name")
    kind: Literal["table", "view", "materialized view", "foreign table"]
    estimated_rows: int | None
    comment: str | None


class Tables(BaseModel):
    """What can be read."""

    tables: list[ListedTable]
    truncated: bool = Field(description="True: there are more; ask for a part of their name.")


class DescribedColumn(BaseModel):
    """A column of a table."""

    name: str
    type: str
    nullable: bool
    comment: str | None
    values: list[str] | None = Field(description="All there can be, where the type is an enum.")


class ForeignKey(BaseModel):
    """Columns whose values are those of another table."""

    columns: list[str]
    refers_to: str = Field(description="schema.name")
    its_columns: list[str]


class Described(ListedTable):
    """A table with its columns and keys."""

    columns: list[DescribedColumn]
    primary_key: list[str]
    unique: list[list[str]]
    foreign_keys: list[ForeignKey]


class Explained(BaseModel):
    """A plan, as PostgreSQL's EXPLAIN writes it; costs and rows are estimates."""

    plan: str


def build_server(database: Database, settings: PostgresSettings) -> MCPServer:
    """An MCP server with the tools `query`, `list_tables`, `describe_table` and `explain`."""
    server = MCPServer(
        "agent-pipelines-postgres",
        instructions="Read a PostgreSQL database. Look at `list_tables` and `describe_table` "
        "before you write a query. Nothing can be changed.",
        log_level="WARNING",
    )
    limiter = anyio.CapacityLimiter(CONCURRENT)
    schemas = settings.schemas

    async def answer(ask: Callable[[Connection], Answer]) -> CallToolResult:
        def asked() -> Answer:
            with database.session() as connection:
                return ask(connection)

        try:
            return _told(await anyio.to_thread.run_sync(asked, limiter=limiter))
        except UnavailableError as error:
            return _down(error.message)
        except RoleError as error:
            return _down(f"It is not used, since {error.message}")
        except UserError as error:
            return _refused(f"{error.message}; {error.remedy}")
        except psycopg.Error as error:
            return _refused(_in_words(error, settings.timeout_seconds))

    @server.tool(annotations=_READ_ONLY)
    async def query(sql: Sql) -> Annotated[CallToolResult, Rows]:
        """Run one SELECT and get its rows. Long results are truncated, and say so."""
        return await answer(
            lambda connection: _rows(
                reading.page(
                    connection,
                    admitted(connection, sql, schemas),
                    max_rows=settings.max_rows,
                    max_bytes=settings.max_bytes,
                )
            )
        )

    @server.tool(annotations=_READ_ONLY)
    async def explain(sql: Sql) -> Annotated[CallToolResult, Explained]:
        """Show how PostgreSQL would run a SELECT, without running it: to see what is costly."""

        def ask(connection: Connection) -> Explained:
            return Explained(plan=reading.plan(connection, admitted(connection, sql, schemas)))

        return await answer(ask)

    @server.tool(annotations=_READ_ONLY)
    async def list_tables(
        name_contains: Annotated[
            str, Field(description="Only tables with this in their name; leave it out for all.")
        ] = "",
    ) -> Annotated[CallToolResult, Tables]:
        """List the tables and views that can be read, with their comments and estimated rows."""

        def ask(connection: Connection) -> Tables:
            found = catalogue.tables(connection, schemas, name_contains)
            shown = found[: catalogue.MAX_TABLES]
            return Tables(
                tables=[ListedTable(**_listed(table)) for table in shown],
                truncated=len(found) > len(shown),
            )

        return await answer(ask)

    @server.tool(annotations=_READ_ONLY)
    async def describe_table(
        table: Annotated[str, Field(description="schema.name, as `list_tables` gives it.")],
    ) -> Annotated[CallToolResult, Described]:
        """Show a table's columns, types, keys and comments, and about how many rows it has."""
        return await answer(lambda connection: _described(connection, schemas, table))

    return server


def admitted(connection: Connection, sql: str, schemas: Sequence[str]) -> str:
    """The text of a statement that may be run in the rest of this call.

    Raises:
        UserError: it may not.
    """
    use = statement.read(sql, schemas)
    names.check(connection, use, schemas)
    reading.look_up_in(connection, schemas)
    return use.text


class RoleError(UserError):
    """The role of the connection can do more than read."""


def open_database(settings: PostgresSettings) -> Database:
    """The database of ``settings``, every connection of which is seen to be read-only."""

    def check(connection: Connection) -> None:
        try:
            role.check(connection, settings.schemas)
        except UserError as error:
            raise RoleError(error.message, remedy=error.remedy) from error

    return Database(settings, check)


@contextmanager
def open_server() -> Iterator[Opened]:
    """The server that the environment describes.

    Raises:
        UserError: a variable is missing or wrong, or the role can do more than read.
    """
    settings = PostgresSettings.read()
    database = open_database(settings)
    try:
        # Down is no reason not to start: it is not ready, and says so, until it is up.
        _not_ready(database)
        yield Opened(build_server(database, settings), readiness(database))
    finally:
        database.close()


def readiness(database: Database) -> Readiness:
    """Ready when the database answers through a connection that can be used."""

    async def ready() -> str | None:
        return await anyio.to_thread.run_sync(_not_ready_in_words, database, abandon_on_cancel=True)

    return ready


def _not_ready(database: Database) -> str | None:
    try:
        with database.session() as connection:
            connection.execute("SELECT 1")
    except UnavailableError as error:
        return error.message
    return None


def _not_ready_in_words(database: Database) -> str | None:
    try:
        return _not_ready(database)
    except RoleError as error:
        return error.message


def _told(answer: BaseModel) -> CallToolResult:
    # Without indentation: rows are many.
    text = TextContent(type="text", text=answer.model_dump_json())
    return CallToolResult(content=[text], structured_content=answer.model_dump(mode="json"))


def _refused(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def _down(message: str) -> CallToolResult:
    return outage(
        "PostgreSQL",
        f"{message}. This is an outage, not an empty result: say that the database could not be "
        "read. Calling again at once will not help.",
    )


def _in_words(error: psycopg.Error, seconds: float) -> str:
    """What the database said, and what to do about it."""
    said = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    if error.diag.message_hint:
        said += f" ({error.diag.message_hint})"
    match error:
        case errors.QueryCanceled():
            slow = too_slow(seconds)
            return f"{slow.message}; {slow.remedy}"
        case errors.LockNotAvailable():
            return f"PostgreSQL: {said}; the table is being changed by others: try again later"
        case errors.InsufficientPrivilege():
            return f"PostgreSQL: {said}; `list_tables` gives the tables that can be read"
        case errors.UndefinedTable() | errors.InvalidSchemaName():
            return f"PostgreSQL: {said}; call `list_tables` for what there is"
        case errors.UndefinedColumn() | errors.AmbiguousColumn():
            return f"PostgreSQL: {said}; call `describe_table` for the columns there are"
        case errors.InsufficientResources():
            return f"PostgreSQL: {said}; read less at once: filter, aggregate or add a LIMIT"
    return f"PostgreSQL: {said}; correct the statement"


def _rows(page: reading.Page) -> Rows:
    notes = []
    if page.ended_by is not None:
        limit = "" if page.ended_by == "rows" else " (more would be too long)"
        notes.append(
            f"These are only the first {len(page.rows)} rows{limit}; there are more. To see others "
            f"use ORDER BY a unique key and OFFSET {len(page.rows)}; or filter, or aggregate."
        )
    if page.cut_values:
        notes.append(
            f"{page.cut_values} long values are cut and end with {reading.CUT!r}: select a part "
            "with substring(…), or the field you need."
        )
    return Rows(
        columns=[ResultColumn(name=name, type=type_) for name, type_ in page.columns],
        rows=[list(row) for row in page.rows],
        row_count=len(page.rows),
        truncated=page.ended_by is not None,
        cut_values=page.cut_values,
        note=" ".join(notes) or None,
    )


def _listed(table: catalogue.Table) -> dict[str, Any]:
    return {
        "table": f"{table.schema}.{table.name}",
        "kind": table.kind,
        "estimated_rows": table.rows,
        "comment": table.comment,
    }


def _described(connection: Connection, schemas: tuple[str, ...], name: str) -> Described:
    table = catalogue.table(connection, schemas, name)
    if table is None:
        raise UserError(
            f"there is no table {name!r} that can be read",
            remedy="use a name that `list_tables` gives, as it is written there",
        )
    keys = catalogue.keys(connection, table)
    return Described(
        **_listed(table),
        columns=[DescribedColumn(**vars(each)) for each in catalogue.columns(connection, table)],
        primary_key=[name for key in keys if key.kind == "p" for name in key.columns],
        unique=[list(key.columns) for key in keys if key.kind == "u"],
        foreign_keys=[
            ForeignKey(
                columns=list(key.columns),
                refers_to=key.table or "",
                its_columns=list(key.of_columns or ()),
            )
            for key in keys
            if key.kind == "f"
        ],
    )
