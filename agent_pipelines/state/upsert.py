"""Insert-or-update, in the dialect of whichever database is behind the connection.

Belongs here: the one statement SQLAlchemy has no common form for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    overwrite: Sequence[str],
    add: Sequence[str] = (),
) -> None:
    """Insert rows; where the key exists, overwrite some columns and add to others."""
    if not rows:
        return
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table)
    values = {name: statement.excluded[name] for name in overwrite}
    values |= {name: table.c[name] + statement.excluded[name] for name in add}
    connection.execute(
        statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=values),
        list(rows),
    )
