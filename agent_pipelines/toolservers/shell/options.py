"""What can be said about how a server is served, and where the environment says it.

Belongs here: every option of the shell, its default and its check. Does not belong here: what an
option does, and the settings of a single server (`toolservers/<name>.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from agent_pipelines.errors import UserError

#: Host headers that a server for this machine only accepts.
LOOPBACK = ("127.0.0.1:*", "localhost:*", "[::1]:*")

#: Origins of browsers on this machine, as the SDK has them.
_LOOPBACK_ORIGINS = tuple(f"http://{host}" for host in LOOPBACK)

#: Where Prometheus looks for a tool server, and the kubelet for its health.
PROBES_PORT = 9090


@dataclass(frozen=True)
class TLS:
    """Files in PEM, read again when they change. With ``client_ca``, clients show certificates."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class ServerOptions:
    """How any server here is served. ``port`` 0 and ``probes_port`` 0: one that is free."""

    #: Of the variables that say it.
    prefix: ClassVar[str]

    host: str = "127.0.0.1"
    port: int = 0
    #: Plain HTTP for /health, /ready and /metrics. None: the main port serves them, without TLS.
    probes_port: int | None = None
    allowed_hosts: tuple[str, ...] = LOOPBACK
    allowed_origins: tuple[str, ...] = _LOOPBACK_ORIGINS
    tls: TLS | None = None
    #: One token a line, or a caller's name and its token. None: who can connect may call.
    token_file: Path | None = None
    max_request_bytes: int = 1024 * 1024
    #: Requests at once; more are told to come back.
    max_concurrent: int = 128
    #: As long as a call may take, below the 30 s that Kubernetes gives.
    drain_seconds: float = 28.0

    @property
    def second_port(self) -> int | None:
        """Where the probes are served apart: with TLS always, for they have no certificate."""
        return PROBES_PORT if self.probes_port is None and self.tls else self.probes_port

    @classmethod
    def of(cls, found: "Environment", *, host: str, port: int, probes_port: int | None) -> Self:
        """The command line's addresses and what was found in the environment.

        Raises:
            UserError: some of the TLS files are named, and not those that a server needs.
        """
        given = found.model_dump(exclude={"tls_cert", "tls_key", "tls_client_ca"})
        return cls(host=host, port=port, probes_port=probes_port, tls=found.tls(), **given)


@dataclass(frozen=True)
class Options(ServerOptions):
    """How one tool server is served."""

    prefix: ClassVar[str] = "TOOLS_"

    #: Below what our clients wait (30 s), so that the model is told and not the circuit breaker.
    call_timeout_seconds: float = 28.0

    @classmethod
    def from_environment(
        cls, *, host: str = "127.0.0.1", port: int = 0, probes_port: int | None = None
    ) -> Self:
        """The command line's addresses and the environment's TOOLS_… settings.

        Raises:
            UserError: a variable has a value that cannot be used.
        """
        return cls.of(_Environment(), host=host, port=port, probes_port=probes_port)


class Environment(BaseSettings):
    """One reading of the environment, by variables with the prefix of a kind of server."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, validate_default=False)

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = Field(
        default=None, description="Who signed the certificates that clients must show."
    )
    token_file: Path | None = None
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = LOOPBACK
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = _LOOPBACK_ORIGINS
    max_request_bytes: int = ServerOptions.max_request_bytes
    max_concurrent: int = ServerOptions.max_concurrent
    drain_seconds: float = ServerOptions.drain_seconds

    @field_validator("tls_cert", "tls_key", "tls_client_ca", "token_file", mode="before")
    @classmethod
    def _file(cls, value: Any, info: ValidationInfo) -> Path:
        if not Path(value).is_file():
            raise cls._wrong(info, value, "name a file that is there and can be read")
        return Path(value)

    @field_validator("allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _names(cls, value: Any, info: ValidationInfo) -> tuple[str, ...]:
        names = tuple(name.strip() for name in str(value).split(",") if name.strip())
        origins = info.field_name == "allowed_origins"
        if not names or any(("://" in name) is not origins for name in names):
            example = "https://console.example.com" if origins else "tools.agents.svc:8443,tools:*"
            raise cls._wrong(info, value, f"write them with commas between, such as {example}")
        return names

    @field_validator("max_request_bytes", "max_concurrent", mode="before")
    @classmethod
    def _whole(cls, value: Any, info: ValidationInfo) -> int:
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            raise cls._wrong(info, value, "use a whole number greater than 0")
        return number

    @field_validator("drain_seconds", mode="before")
    @classmethod
    def _seconds(cls, value: Any, info: ValidationInfo) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise cls._wrong(info, value, "use a number of seconds greater than 0")
        return seconds

    def tls(self) -> TLS | None:
        """The files, if both that a server needs are named."""
        if self.tls_cert and self.tls_key:
            return TLS(self.tls_cert, self.tls_key, self.tls_client_ca)
        if self.tls_cert or self.tls_key or self.tls_client_ca:
            missing = "TLS_KEY" if self.tls_cert else "TLS_CERT"
            raise UserError(
                f"{self._prefix()}{missing} is not set, and other TLS files are",
                remedy="name the certificate and its key, or no TLS file at all",
            )
        return None

    @classmethod
    def _prefix(cls) -> str:
        return cls.model_config.get("env_prefix", "")

    @classmethod
    def _wrong(cls, info: ValidationInfo, value: Any, remedy: str) -> UserError:
        # Not a ValueError, which would reach a person as a traceback.
        variable = f"{cls._prefix()}{str(info.field_name).upper()}"
        return UserError(f"{variable} is {value!r}", remedy=remedy)


class _Environment(Environment):
    """That of a tool server, by variables such as TOOLS_MAX_CONCURRENT."""

    model_config = SettingsConfigDict(env_prefix=Options.prefix)

    call_timeout_seconds: float = Options.call_timeout_seconds

    @field_validator("call_timeout_seconds", mode="before")
    @classmethod
    def _time_of_a_call(cls, value: Any, info: ValidationInfo) -> float:
        return cls._seconds(value, info)
