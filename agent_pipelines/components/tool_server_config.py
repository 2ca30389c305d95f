"""What the defs.yaml of a tool server may say.

Belongs here: the fields, and what is wrong with a value before anything runs. Does not belong here:
the resource that is made of it (`tool_server.py`, `resources/tools.py`).
"""

import re
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agent_pipelines.components.tls_config import TlsConfig

_VARIABLE = re.compile(r"\{\{\s*env\.(\w+)\s*\}\}")


def variable_in(text: str) -> str | None:
    """The environment variable that `{{ env.NAME }}` stands for; None where it is anything else."""
    found = _VARIABLE.fullmatch(text.strip())
    return found[1] if found else None


def checked_url(url: str, *, example: str, say_as: str) -> str:
    """A server's URL.

    Raises:
        ValueError: it is none, or holds a password, which the field `say_as` is for.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no URL; write it like {example}")
    if parts.username or parts.password:
        raise ValueError(f"it holds a password; say it as `{say_as}`")
    return url


class BreakerConfig(BaseModel):
    """When nobody waits for the server any more."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    failures: int = Field(
        default=3, ge=1, description="Consecutive transport failures that open it."
    )
    open_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Calls then fail at once, for this long; then a single one is let through.",
    )


class ToolServerConfig(TlsConfig):
    """A tool server: any MCP server over streamable HTTP.

    The folder that the defs.yaml stands in gives it its name; agents name it in `tool_servers`.
    """

    # What is wrong is named, and not shown: it may be a token.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    description: str = Field(default="", description="What its tools are for, for people.")
    url: str | None = Field(
        default=None,
        description="Its MCP endpoint, such as https://orders.example/mcp. In a folder called "
        "`search` it may be left out: then SEARCH_TOOL_URL, else the embedded search server.",
    )
    token: str | None = Field(
        default=None, description="Bearer token, as `{{ env.NAME }}`: it has no place in a file."
    )
    token_file: str | None = Field(
        default=None, description="File with the bearer token; read for every exchange."
    )
    tools: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Its tools that agents may use; default: all."
    )
    connect_timeout_seconds: float = Field(default=5.0, gt=0)
    call_timeout_seconds: float = Field(
        default=30.0, gt=0, description="For one call, once it is its turn."
    )
    concurrency: int = Field(default=32, ge=1, description="Calls at once from one worker.")
    breaker: BreakerConfig = BreakerConfig()

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        return url and checked_url(url, example="https://orders.example/mcp", say_as="token")

    @field_validator("token")
    @classmethod
    def _is_no_secret(cls, token: str | None) -> str | None:
        if token is not None and variable_in(token) is None:
            raise ValueError(
                "a secret has no place in a file; write `{{ env.NAME }}` for the environment "
                "variable that holds it, or use `token_file`"
            )
        return token

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file are both set; leave one out")
        self.refuse_without_tls(self.url or "")
        if self.tools is not None and len(set(self.tools)) != len(self.tools):
            raise ValueError(f"tools names one twice: {', '.join(self.tools)}")
        return self

    @property
    def token_variable(self) -> str | None:
        """The environment variable that holds the token."""
        return variable_in(self.token) if self.token else None
