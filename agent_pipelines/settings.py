"""What a machine or deployment decides, as opposed to what an asset's YAML decides.

Belongs here: addresses of outside systems and the folders this process may use, read from the
environment when a `Settings` is constructed (never at import). Does not belong here: anything that
changes what an index means or what an agent does; that is YAML under `assets/`.
"""

from pathlib import Path
from typing import Any, Literal, get_args

import platformdirs
from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from agent_pipelines.errors import UserError

EmbedderBackend = Literal["auto", "torch", "openvino"]


class Retention(BaseSettings):
    """How many days each kind of record is kept, by variables such as RETENTION_ANSWERS_DAYS.

    What is live, may still be continued or is still referred to is kept however old it is.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_prefix="RETENTION_")

    journals_days: float = Field(
        default=14, description="Messages and traces of batches that have ended."
    )
    answers_days: float = Field(default=90, description="Batches that have ended, and answers.")
    snapshots_days: float = Field(
        default=30, description="Snapshots that are neither the newest nor some answer's."
    )
    tombstones_days: float = Field(
        default=90, description="Ids of chunks that are gone, which no answer here can cite."
    )
    signals_days: float = Field(default=30, description="Readings that nobody renews any more.")
    runs_days: float = Field(
        default=30, description="Dagster's finished runs, with their events and logs."
    )
    reports_days: float = Field(
        default=7, description="What Dagster's sensors reported of checks, and its ticks."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _days(cls, value: Any, info: ValidationInfo) -> float:
        try:
            days = float(value)
        except (TypeError, ValueError):
            days = 0.0
        if not 0 < days < float("inf"):
            raise UserError(
                f"RETENTION_{str(info.field_name).upper()} is {value!r}",
                remedy="use a number of days greater than 0",
            )
        return days


def _default_state_dir() -> Path:
    return Path.cwd() / ".agent-pipelines"


def _default_cache_dir() -> Path:
    return platformdirs.user_cache_path("agent-pipelines")


class Settings(BaseSettings):
    """One reading of the environment; every field is the lower-case name of its variable."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    agent_pipelines_state_dir: Path = Field(
        default_factory=_default_state_dir,
        description="Data of the embedded parts, the SQLite state database and Dagster's instance.",
    )
    agent_pipelines_cache_dir: Path = Field(
        default_factory=_default_cache_dir,
        description="Built or downloaded binaries and converted models, by version.",
    )
    agent_pipelines_assets: Path | None = Field(
        default=None, description="Folder of indexes and agents; default: the packaged `assets`."
    )
    state_database_url: str | None = Field(
        default=None, description="SQLAlchemy URL; default: SQLite in the state directory."
    )
    weaviate_url: str | None = Field(
        default=None, description="An existing Weaviate; default: the embedded one."
    )
    weaviate_grpc: str | None = Field(
        default=None, description="host:port of its gRPC service; default: same host, 50051."
    )
    weaviate_api_key: str | None = None
    embedder_model: str | None = Field(
        default=None, description="Model name or path; default: the packaged MiniLM."
    )
    embedder_backend: EmbedderBackend = Field(
        default="auto",
        description="What computes vectors here: torch, openvino, or auto, the quickest there is.",
    )
    embedder_base_url: str | None = Field(
        default=None,
        description="Any OpenAI-compatible /v1 that has the embedder's model loaded; default: "
        "vectors are computed here.",
    )
    embedder_api_key: str | None = None
    llm_base_url: str | None = Field(
        default=None, description="Any OpenAI-compatible /v1; default: an embedded vLLM."
    )
    llm_model: str | None = Field(
        default=None, description="Model name or path; default: the packaged SmolLM2-135M."
    )
    llm_api_key: str | None = None
    search_tool_url: str | None = Field(
        default=None, description="An existing search tool server; default: the embedded one."
    )
    search_tool_ca: Path | None = Field(
        default=None, description="PEM file: the CA of its certificate; default: the machine's."
    )
    search_tool_cert: Path | None = Field(
        default=None, description="PEM file: the certificate to show it; default: none."
    )
    search_tool_key: Path | None = Field(default=None, description="The key that belongs to it.")
    search_tool_token: str | None = None

    dagster_home: Path | None = Field(
        default=None,
        description="Dagster's instance, where a deployment runs its daemon; default: the one in "
        "the state directory, whose daemon `dev` runs.",
    )
    kubernetes_service_host: str | None = Field(
        default=None, description="Set by Kubernetes in every pod: there runs may be pods too."
    )

    @field_validator("embedder_backend", mode="before")
    @classmethod
    def _known_backend(cls, value: Any) -> Any:
        known = get_args(EmbedderBackend)
        if value not in known:
            # Not a ValueError, which would reach a person as a traceback.
            raise UserError(
                f"EMBEDDER_BACKEND {value!r} does not exist", remedy=f"use {', '.join(known)}"
            )
        return value

    @property
    def state_dir(self) -> Path:
        return self.agent_pipelines_state_dir.expanduser().absolute()

    @property
    def cache_dir(self) -> Path:
        return self.agent_pipelines_cache_dir.expanduser().absolute()

    @property
    def database_url(self) -> str:
        return self.state_database_url or f"sqlite:///{self.state_dir / 'state.db'}"
