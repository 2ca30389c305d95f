"""What there is to read: tables, columns, keys and comments, as far as the role may read them.

Belongs here: the questions to PostgreSQL's own catalogue. Does not belong here: the rows of a table
(`reading`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agent_pipelines.toolservers.postgres.session import Connection

#: Tables of one listing.
MAX_TABLES = 200

_READABLE = """
  n.nspname = ANY (%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND (has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT'))
"""

_COLUMNS_OF_TABLE = """
  c.oid, n.nspname, c.relname,
  CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                 WHEN 'f' THEN 'foreign table' ELSE 'table' END,
  CASE WHEN c.relkind IN ('v', 'f') OR c.reltuples < 0 THEN NULL
       ELSE c.reltuples::bigint END,
  left(obj_description(c.oid, 'pg_class'), 500)
"""

_TABLES = f"""
SELECT {_COLUMNS_OF_TABLE} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_READABLE} AND NOT c.relispartition AND strpos(lower(c.relname), lower(%(like)s)) > 0
ORDER BY n.nspname, c.relname LIMIT {MAX_TABLES + 1}
"""  # noqa: S608 - pieces of our own

_TABLE = f"""
SELECT {_COLUMNS_OF_TABLE} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE {_READABLE} AND c.relname = %(table)s AND (%(schema)s::text IS NULL OR n.nspname = %(schema)s)
ORDER BY array_position(%(schemas)s, n.nspname::text) LIMIT 1
"""  # noqa: S608 - pieces of our own

_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
       left(col_description(a.attrelid, a.attnum), 500),
       (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
        FROM pg_enum e WHERE e.enumtypid = a.atttypid)
FROM pg_attribute a
WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
  AND has_column_privilege(a.attrelid, a.attnum, 'SELECT')
ORDER BY a.attnum
"""

_KEYS = """
SELECT k.contype::text,
       (SELECT array_agg(a.attname::text ORDER BY u.place)
        FROM unnest(k.conkey) WITH ORDINALITY AS u(attnum, place)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum),
       f.nspname || '.' || t.relname,
       (SELECT array_agg(a.attname::text ORDER BY u.place)
        FROM unnest(k.confkey) WITH ORDINALITY AS u(attnum, place)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum)
FROM pg_constraint k
LEFT JOIN (pg_class t JOIN pg_namespace f ON f.oid = t.relnamespace) ON t.oid = k.confrelid
WHERE k.conrelid = %(oid)s AND k.contype IN ('p', 'u', 'f')
ORDER BY k.contype, k.conname
"""


@dataclass(frozen=True)
class Table:
    """A table, or what can be read like one."""

    oid: int
    schema: str
    name: str
    kind: Literal["table", "view", "materialized view", "foreign table"]
    #: The planner's estimate; None where there is none.
    rows: int | None
    comment: str | None


@dataclass(frozen=True)
class TableColumn:
    """A column; ``values`` are an enum's."""

    name: str
    type: str
    nullable: bool
    comment: str | None
    values: Sequence[str] | None


@dataclass(frozen=True)
class Key:
    """A primary key (p), a unique one (u), or one that refers to another table's (f)."""

    kind: str
    columns: Sequence[str]
    table: str | None
    of_columns: Sequence[str] | None


def tables(connection: Connection, schemas: Sequence[str], like: str) -> list[Table]:
    """Tables whose name contains ``like``, at most `MAX_TABLES` and one; without partitions."""
    found = connection.execute(_TABLES, {"schemas": list(schemas), "like": like})
    return [Table(*row) for row in found]


def table(connection: Connection, schemas: Sequence[str], name: str) -> Table | None:
    """The table of that name, with or without its schema before it; None where there is none."""
    schema, _, bare = name.rpartition(".")
    row = connection.execute(
        _TABLE, {"schemas": list(schemas), "schema": schema or None, "table": bare}
    ).fetchone()
    return Table(*row) if row else None


def columns(connection: Connection, of: Table) -> list[TableColumn]:
    """The columns that can be read, in their order."""
    return [TableColumn(*row) for row in connection.execute(_COLUMNS, {"oid": of.oid})]


def keys(connection: Connection, of: Table) -> list[Key]:
    """Primary, unique and foreign keys."""
    return [Key(*row) for row in connection.execute(_KEYS, {"oid": of.oid})]
