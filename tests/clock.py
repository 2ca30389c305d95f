"""The clock, turned: everything that was recorded is moved instead, which is the same to who looks.

Belongs here: the moments of a state database. Does not belong here: what should follow from them.
"""

from datetime import timedelta

from sqlalchemy import Engine, func, update

from agent_pipelines.state.engine import write
from agent_pipelines.state.tables import UtcDateTime, metadata


def pass_time(engine: Engine, passed: timedelta) -> None:
    """Everything recorded is so much longer ago; by a negative time, ahead. SQLite only."""
    by = f"{-passed.total_seconds():+.0f} seconds"
    with write(engine) as connection:
        for table in metadata.sorted_tables:
            moments = [c for c in table.c if isinstance(c.type, UtcDateTime)]
            if moments:
                values = {c: func.strftime("%Y-%m-%d %H:%M:%f", c, by) + "000" for c in moments}
                connection.execute(update(table).values(values))
