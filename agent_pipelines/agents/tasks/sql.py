"""Rows of a database, by any SQLAlchemy URL and one query.

Belongs here: reading them as the database streams them. Does not belong here: what a person may
write as a URL (`database.py`) or what a value becomes in JSON (`values.py`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from sqlalchemy import URL, text

from agent_pipelines.agents.tasks import RowError, TaskSource, TaskSourceConfig
from agent_pipelines.agents.tasks.values import as_json
from agent_pipelines.database import Database, one_select, parsed
from agent_pipelines.errors import UserError

#: Rows fetched together: what reading holds in memory.
_ROWS = 1_000


class Sql(TaskSourceConfig):
    """The rows of a query, from any database that SQLAlchemy knows."""

    kind: Literal["sql"]
    url: str = Field(
        repr=False,
        description="SQLAlchemy URL of the database; a relative SQLite path starts at this YAML's "
        "folder. Time-outs are the driver's own, such as ?connect_timeout=10.",
        examples=["postgresql://reader:{{ env.PASSWORD }}@db/tickets", "sqlite:///../tickets.db"],
    )
    query: str = Field(
        description="One SELECT. Its columns are the task's fields; `task_id`, where it gives one, "
        "is the task's id.",
        examples=["SELECT id AS task_id, body AS question FROM tickets WHERE open ORDER BY id"],
    )

    @field_validator("query")
    @classmethod
    def _one_select(cls, query: str) -> str:
        return one_select(query)

    def open(self, folder: Path) -> TaskSource:
        """The source; a relative SQLite path is below `folder`."""
        return SqlSource(parsed(self.url, folder, "tasks.url"), self.query)


class SqlSource(TaskSource):
    """The rows that `query` gives at `url`; nothing is connected before it is read."""

    def __init__(self, url: URL, query: str) -> None:
        self._database = Database(url, "tasks.url")
        # A colon would begin a parameter.
        self._query = text(query.replace(":", r"\:"))

    def __str__(self) -> str:
        return f"the query of tasks at {self._database.shown}"

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Every row in the database's order, over a connection that ends with it."""
        engine = self._database.engine()
        try:
            with engine.connect() as connection:
                reading = connection.execution_options(yield_per=_ROWS, postgresql_readonly=True)
                found = reading.execute(self._query)
                columns = list(found.keys())
                if len(set(columns)) != len(columns):
                    raise UserError(
                        f"{self} gives the columns {', '.join(columns)}, of which two are one",
                        remedy="name columns with AS",
                    )
                for number, row in enumerate(found, start=1):
                    try:
                        yield number, as_json(dict(zip(columns, row, strict=True)))
                    except ValueError as error:
                        raise RowError(number, error) from error
        except (UserError, RowError):
            raise
        except Exception as error:  # every driver raises its own kinds
            raise UserError(
                f"{self} cannot be read: {self._database.said(error)}",
                remedy="correct `url` or `query` of `tasks` in defs.yaml, or see that the database "
                "is up and lets us in",
            ) from error
        finally:
            # No connection waits in the pool for the next batch, which is a day away.
            engine.dispose()
