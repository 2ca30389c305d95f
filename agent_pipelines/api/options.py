"""What can be said about how the API is served, and where the environment says it.

Belongs here: what the API has beyond the options of every server here (`toolservers/shell`). Does
not belong here: what an agent may do; that is its YAML.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from agent_pipelines.toolservers.shell.options import Environment, ServerOptions


@dataclass(frozen=True)
class ApiOptions(ServerOptions):
    """How the API is served. ``max_concurrent``: conversations at once, of all agents together."""

    prefix: ClassVar[str] = "API_"

    max_concurrent: int = 32
    #: Tasks that wait for their turn; more are told when to come back.
    max_waiting: int = 128

    @classmethod
    def from_environment(
        cls, *, host: str = "127.0.0.1", port: int = 0, probes_port: int | None = None
    ) -> Self:
        """The command line's addresses and the environment's API_… settings.

        Raises:
            UserError: a variable has a value that cannot be used.
        """
        return cls.of(_Environment(), host=host, port=port, probes_port=probes_port)


class _Environment(Environment):
    model_config = SettingsConfigDict(env_prefix=ApiOptions.prefix)

    max_concurrent: int = ApiOptions.max_concurrent
    max_waiting: int = ApiOptions.max_waiting

    @field_validator("max_waiting", mode="before")
    @classmethod
    def _room(cls, value: Any, info: ValidationInfo) -> int:
        return cls._whole(value, info)
