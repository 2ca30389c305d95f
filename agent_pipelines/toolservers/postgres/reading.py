"""Running one query: the first rows of its result, no more of it than asked for, and its plan.

Belongs here: how a statement is run so that only a query can be, and the caps on what comes back.
Does not belong here: whether it may be run (`statement`, `names`), and its connection (`session`).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.postgres import types

from agent_pipelines.toolservers.postgres.session import Connection

#: Characters of one value; a longer one is cut.
MAX_CHARACTERS = 4_000

#: Behind a text that was cut.
CUT = "… (cut)"

#: What one FETCH may bring into this process, if every value is as long as it can be.
_FETCHED_BYTES = 16 * 1024 * 1024
_FETCHED_ROWS = 200

#: Types that are a number or a truth value to JSON, by their object ids: bool, int2, int4, int8,
#: float4, float8. All others come as text; numeric too, which a float would round.
_PLAIN = (16, 21, 23, 20, 700, 701)

_MAX_PLAN_CHARACTERS = 20_000

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Page:
    """The first rows of a result. ``ended_by`` kept back the others, if there are any."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Value]]
    ended_by: Literal["rows", "bytes"] | None
    cut_values: int


def look_up_in(connection: Connection, schemas: Sequence[str]) -> None:
    """For the rest of this call, find tables without a schema in ``schemas``.

    PostgreSQL's own come first, and what is temporary last.
    """
    path = ",".join('"' + name.replace('"', '""') + '"' for name in schemas)
    connection.execute("SELECT set_config('search_path', %s, true)", [f"pg_catalog,{path},pg_temp"])


def page(connection: Connection, text: str, *, max_rows: int, max_bytes: int) -> Page:
    """The first rows of the query ``text``: names and types of its columns, and as many rows as
    both caps allow.

    The text becomes a subquery of a cursor: a place where PostgreSQL's grammar has room for a query
    only, in the extended protocol, which takes one statement at a time. So what is no query fails
    here too, before anything is run; and of a result no more is computed and sent than is read.
    """
    described = _run(connection, _subquery("SELECT * FROM", text, "LIMIT 0")).description or []
    kinds = [column.type_code for column in described]
    names = [f"c{number}" for number in range(len(kinds))]
    characters = min(MAX_CHARACTERS, max(50, max_bytes // max(1, len(kinds))))
    shown = ", ".join(
        name if kind in _PLAIN else _cut_text(name, characters + 1)
        for name, kind in zip(names, kinds, strict=True)
    )
    named = f"({', '.join(names)})" if names else ""
    _run(
        connection, _subquery(f"DECLARE page NO SCROLL CURSOR FOR SELECT {shown} FROM", text, named)
    )
    columns = [
        (column.name, type_)
        for column, type_ in zip(described, _type_names(connection, kinds), strict=True)
    ]

    rows: list[list[Value]] = []
    cuts = size = 0
    batch = max(1, min(_FETCHED_ROWS, _FETCHED_BYTES // (4 * characters * max(1, len(kinds)))))
    while True:
        # One more than wanted tells whether that was all.
        wanted = min(batch, max_rows + 1 - len(rows))
        fetched = _run(connection, f"FETCH FORWARD {wanted} FROM page").fetchall()
        for raw in fetched:
            row = [_value(value, characters) for value in raw]
            size += len(json.dumps(row, ensure_ascii=False).encode())
            if rows and (len(rows) == max_rows or size > max_bytes):
                ended_by: Literal["rows", "bytes"] = "rows" if size <= max_bytes else "bytes"
                return Page(columns, rows, ended_by, cuts)
            rows.append(row)
            cuts += sum(isinstance(value, str) and value.endswith(CUT) for value in row)
        if len(fetched) < wanted:
            return Page(columns, rows, None, cuts)


def plan(connection: Connection, text: str) -> str:
    """How PostgreSQL would run the query ``text``. Nothing of it is run."""
    found = _run(connection, _subquery("EXPLAIN (FORMAT TEXT) SELECT * FROM", text, "")).fetchall()
    lines = "\n".join(str(line) for (line,) in found)
    return lines if len(lines) <= _MAX_PLAN_CHARACTERS else lines[:_MAX_PLAN_CHARACTERS] + CUT


def _run(connection: Connection, statement: str) -> Any:
    # Binary results are what makes psycopg use the extended protocol without parameters.
    return connection.cursor(binary=True).execute(statement.encode(), prepare=False)


def _subquery(before: str, text: str, after: str) -> str:
    # On lines of its own: a comment at its end must not swallow the parenthesis.
    return f"{before} (\n{text}\n) AS query {after}"


def _cut_text(name: str, characters: int) -> str:
    """A value as its type writes it, only its beginning.

    A cast might call somebody's function; `format` asks the type itself. Counting nulls tells a row
    of nulls from none, which IS NULL does not.
    """
    return (
        f"CASE WHEN pg_catalog.num_nulls({name}) OPERATOR(pg_catalog.=) 0 "
        f"THEN pg_catalog.left(pg_catalog.format('%s', {name}), {characters}) END"
    )


def _value(value: object, characters: int) -> Value:
    if isinstance(value, str):
        return value if len(value) <= characters else value[:characters] + CUT
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)  # JSON has no such number: as text, as PostgreSQL writes it
    assert value is None or isinstance(value, bool | int | float)
    return value


def _type_names(connection: Connection, kinds: Sequence[int]) -> list[str]:
    if not all(kind in _KNOWN for kind in kinds):
        named = connection.execute(
            "SELECT pg_catalog.format_type(kind, NULL) "
            "FROM pg_catalog.unnest(%s::oid[]) WITH ORDINALITY AS asked(kind, place) "
            "ORDER BY place",
            [list(kinds)],
        )
        return [str(name) for (name,) in named]
    return [_KNOWN[kind] for kind in kinds]


#: Names of PostgreSQL's own types and their arrays, by object id.
_KNOWN = {info.oid: info.regtype for info in types} | {
    info.array_oid: f"{info.regtype}[]" for info in types if info.array_oid
}
