"""What the names in a statement stand for in this database: may those be called?

Belongs here: which functions, operators and types a query may use, by the database's own catalogue
and the path on which it looks names up. Does not belong here: the shape of a statement
(`statement`).
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

from agent_pipelines.errors import UserError
from agent_pipelines.toolservers.postgres.session import Connection
from agent_pipelines.toolservers.postgres.statement import Name, Statement

#: Volatile, but only in that they give another value each time.
_HARMLESS = ("clock_timestamp", "gen_random_uuid", "random", "random_normal", "uuidv4", "uuidv7")

#: Not volatile by the catalogue, and yet no function of values: they run a query that is handed to
#: them as text or by name, tell of the server or of other sessions, take a transaction id, read
#: large objects, or parse XML. Of all that begin with pg_ a few are good.
_DENIED = re.compile(
    r"pg_(?!typeof$|size_pretty$|size_bytes$|column_size$)|.*_to_xml|.*_to_xmlschema|.*xml|xpath|"
    r"current_(setting|query)|set_config|inet_(client|server)|txid_|lo_|lo(read|write)$|ts_stat|"
    r"has_|row_security_active|binary_upgrade|dblink|to_reg|reg(?!exp|r_)|col_description|obj_description|"
    r"shobj_description|ts_rewrite$|array_fill$"
)

#: Arguments that only the server itself hands to a function: cstring and internal.
_RAW = [2275, 2281]

#: Extensions whose functions only compute. Of others an overload of a built-in name is no harm.
_EXTENSIONS = [
    "citext",
    "cube",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "intarray",
    "ltree",
    "pg_trgm",
    "unaccent",
    "vector",
]

_FUNCTIONS = """
SELECT asked.schema, asked.name, count(p.oid) > 0 AS known,
       bool_and(n.nspname = 'pg_catalog' OR e.extname IS NOT NULL) AND
         bool_or(n.nspname = 'pg_catalog' OR e.extname = ANY (%(extensions)s)) AS trusted,
       bool_or(p.provolatile = 'v') AS volatile,
       bool_or(p.proargtypes::oid[] && %(raw)s::oid[]) AS raw
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS asked(schema, name)
LEFT JOIN (pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace) ON p.proname = asked.name
 AND (n.nspname = asked.schema OR asked.schema IS NULL AND n.nspname = ANY (%(path)s))
LEFT JOIN (pg_depend d JOIN pg_extension e ON e.oid = d.refobjid)
  ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
GROUP BY 1, 2
"""

#: Operators that are neither PostgreSQL's own nor came with an extension.
_OPERATORS = """
SELECT DISTINCT asked.name, n.nspname
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS asked(schema, name)
JOIN pg_operator o ON o.oprname = asked.name
JOIN pg_namespace n ON n.oid = o.oprnamespace
 AND (n.nspname = asked.schema OR asked.schema IS NULL AND n.nspname = ANY (%(path)s))
WHERE n.nspname <> 'pg_catalog' AND NOT EXISTS (
  SELECT FROM pg_depend d
  WHERE d.classid = 'pg_operator'::regclass AND d.objid = o.oid
    AND d.deptype = 'e')
"""

#: Types of which not all that the name could mean are an enum without casts of somebody's own, or
#: came with an extension.
_TYPES = """
SELECT asked.schema, asked.name
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS asked(schema, name)
LEFT JOIN (pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace) ON t.typname = asked.name
 AND (n.nspname = asked.schema OR asked.schema IS NULL AND n.nspname = ANY (%(path)s))
GROUP BY 1, 2
HAVING NOT coalesce(bool_and(n.nspname <> 'pg_catalog' AND (
  t.typtype = 'e' AND NOT EXISTS (
    SELECT FROM pg_cast c WHERE c.casttarget = t.oid AND c.castfunc <> 0)
  OR EXISTS (
    SELECT FROM pg_depend d
    WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'))), false)
"""

#: `row.name` calls a function of that name, if the row has no such column.
_OF_ROWS = """
SELECT DISTINCT p.proname
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_type t ON t.oid = p.proargtypes[0]
WHERE p.proname = ANY (%(names)s) AND n.nspname <> 'pg_catalog' AND n.nspname = ANY (%(path)s)
  AND t.typtype IN ('c', 'p')
"""


def check(connection: Connection, use: Statement, path: Sequence[str]) -> None:
    """See that a statement calls nothing but what reads values.

    ``path`` is where names without a schema are looked up, beside PostgreSQL's own.

    Raises:
        UserError: it uses a function, an operator or a type that is not known to be harmless.
    """
    where = ["pg_catalog", *path]
    for schema, name in use.functions:
        if _DENIED.match(name):
            raise _not_allowed(schema, name)
    asked: dict[str, Any] = {
        **_split(use.functions),
        "path": where,
        "raw": _RAW,
        "extensions": _EXTENSIONS,
    }
    functions = connection.execute(_FUNCTIONS, asked) if use.functions else ()
    for schema, name, known, trusted, volatile, raw in functions:
        if not known:
            raise UserError(
                f"there is no function {_shown(schema, name)}",
                remedy="use one of PostgreSQL's own, and CAST(… AS type) to convert a value",
            )
        if not trusted:
            raise UserError(
                f"{_shown(schema, name)} is a function that somebody made in this database",
                remedy=f"use only PostgreSQL's own; if you mean one, write pg_catalog.{name}(…)",
            )
        if raw or (volatile and name not in _HARMLESS):
            raise _not_allowed(schema, name)
    for name, schema in connection.execute(_OPERATORS, {**_split(use.operators), "path": where}):
        raise UserError(
            f"schema {schema} has an operator {name} of its own, which might be the one called",
            remedy=f"write OPERATOR(pg_catalog.{name}) where the query uses {name}; for CASE x "
            "WHEN, USING, BETWEEN and the like write the comparison out",
        )
    asked = {**_split(use.types), "path": where}
    for schema, name in connection.execute(_TYPES, asked) if use.types else ():
        raise UserError(
            f"values cannot be cast to {_shown(schema, name)} here",
            remedy="use a plain type such as text, numeric, date, jsonb, or an enum",
        )
    asked = {"names": list(use.attributes), "path": where}
    for (name,) in connection.execute(_OF_ROWS, asked) if use.attributes else ():
        raise UserError(
            f"{name!r} is a function as well, which `row.{name}` might call",
            remedy=f"write the column without its table, or leave {name} out",
        )


def _split(names: Collection[Name]) -> dict[str, list[str | None]]:
    pairs = list(names)
    return {"schemas": [schema for schema, _ in pairs], "names": [name for _, name in pairs]}


def _shown(schema: str | None, name: str) -> str:
    return f"{schema}.{name}" if schema else name


def _not_allowed(schema: str | None, name: str) -> UserError:
    return UserError(
        f"{_shown(schema, name)} does more than compute a value",
        remedy="use another function; for the tables and columns there are, `list_tables` and "
        "`describe_table`",
    )
