"""Deleting however many rows, in transactions that keep nobody waiting.

Belongs here: the slices. Does not belong here: which rows may go (`retention.py`, `agents/`).
"""

from sqlalchemy import ColumnElement, Engine, Table, delete, select, tuple_

from agent_pipelines.state.engine import write

#: Rows of one transaction.
_SLICE = 1_000


def delete_where(engine: Engine, table: Table, condition: ColumnElement[bool]) -> int:
    """Delete the rows that meet a condition, and say how many. Interrupted, some are left.

    Raises:
        UnavailableError: the state database does not answer.
    """
    key = list(table.primary_key)
    some = select(*key).where(condition).limit(_SLICE)
    deleted = 0
    while True:
        with write(engine) as connection:
            count = connection.execute(delete(table).where(tuple_(*key).in_(some))).rowcount
        deleted += count
        if count < _SLICE:
            return deleted
