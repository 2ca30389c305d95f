"""The state database as a Dagster resource."""

from functools import lru_cache

import dagster as dg
from pydantic import Field
from sqlalchemy import Engine

from agent_pipelines.settings import Settings
from agent_pipelines.state.engine import open_engine


class StateResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Ledger, snapshots, signals, answers and journals."""

    url: str | None = Field(
        default=None,
        description="SQLAlchemy URL; default: STATE_DATABASE_URL, else SQLite in the state folder.",
    )

    def engine(self) -> Engine:
        """The engine, migrated; one per process and URL."""
        return _engine(self.url or Settings().database_url)


@lru_cache
def _engine(url: str) -> Engine:
    return open_engine(url)
