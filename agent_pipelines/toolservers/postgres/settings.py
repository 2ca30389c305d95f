"""What the PostgreSQL tool server is told by its environment.

Belongs here: one reading of the TOOLS_POSTGRES_ variables, each checked. Does not belong here: what
the database itself must grant (`role`).
"""

from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from agent_pipelines.errors import UserError

_URL = "TOOLS_POSTGRES_URL"
_USE = "write it as postgresql://user:password@host/database, with %40 for an @ in the password"


class PostgresSettings(BaseSettings):
    """Which database, what of it, and how much of that at once."""

    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, env_prefix="TOOLS_POSTGRES_", validate_default=True
    )

    url: str = Field(default="", repr=False, description="Of a role that can only read.")
    schemas: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("public",), description="Whose tables can be read, separated by commas."
    )
    max_rows: int = Field(default=200, description="Rows that one query gives at most.")
    max_bytes: int = Field(
        default=100_000, description="Size of the rows that one query gives at most, as JSON."
    )
    timeout_seconds: float = Field(default=10, description="A statement may take this long.")

    @field_validator("url", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> str:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        if not value:
            raise UserError(f"{_URL} is not set", remedy=_USE)
        try:
            conninfo_to_dict(value)
        except ProgrammingError:
            # Where a password would be in it cannot be told, so nothing of it is shown.
            raise UserError(f"{_URL} is not a PostgreSQL URL", remedy=_USE) from None
        return str(value)

    @field_validator("schemas", mode="before")
    @classmethod
    def _named(cls, value: Any) -> tuple[str, ...]:
        named = value.split(",") if isinstance(value, str) else value
        schemas = tuple(name.strip() for name in named if name.strip())
        if not schemas:
            raise UserError(
                f"TOOLS_POSTGRES_SCHEMAS is {value!r}",
                remedy="name the schemas whose tables can be read, such as public,sales",
            )
        for name in schemas:
            if name.startswith("pg_") or name == "information_schema":
                raise UserError(
                    f"TOOLS_POSTGRES_SCHEMAS names {name!r}, which is PostgreSQL's own",
                    remedy="leave it out: `list_tables` and `describe_table` tell what is there",
                )
        return schemas

    @field_validator("max_rows", "max_bytes", "timeout_seconds", mode="before")
    @classmethod
    def _more_than_nothing(cls, value: Any, info: ValidationInfo) -> float:
        whole = info.field_name != "timeout_seconds"
        try:
            number = int(value) if whole else float(value)
        except (TypeError, ValueError):
            number = 0
        if not 0 < number <= 1_000_000_000:
            raise UserError(
                f"TOOLS_POSTGRES_{str(info.field_name).upper()} is {value!r}",
                remedy=f"use a {'whole number' if whole else 'number of seconds'} greater than 0",
            )
        return number

    @classmethod
    def read(cls) -> Self:
        """One reading of the environment.

        Raises:
            UserError: a variable is missing or wrong.
        """
        return cls()
