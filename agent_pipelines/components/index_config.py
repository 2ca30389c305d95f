"""What the defs.yaml of an index may say.

Belongs here: fields, defaults and their explanations, as shown by `dg docs` and in the UI. Does
not belong here: what is made of them (`index.py`).
"""

from datetime import timedelta
from typing import Annotated, Any, Literal

from dagster._utils.schedules import is_valid_cron_string
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agent_pipelines.components.variables import filled
from agent_pipelines.indexing.index import WhenFalse
from agent_pipelines.indexing.partition import BUCKETS
from agent_pipelines.indexing.sources.catalogue import AnySource
from agent_pipelines.indexing.store import CollectionSettings


class Chunking(BaseModel):
    """How documents are cut. A change builds a new generation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int = Field(
        default=200, ge=16, le=8192, description="Longest chunk, in the embedder's own tokens."
    )
    overlap: int = Field(default=0, ge=0, description="Tokens that neighbouring chunks share.")


class IndexConfig(BaseModel):
    """An index: a source, kept in step as vectors in Weaviate, for agents to search.

    The folder that the defs.yaml stands in gives the index its name. `{{ env.NAME }}` stands for an
    environment variable, in any text: what is secret has no place in a file.
    """

    # What is wrong is named, and not shown: it may be a password.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    description: str = Field(default="", description="What the index holds, for people.")
    source: AnySource = Field(description="Where documents come from.")
    chunking: Chunking = Field(default=Chunking(), description="How documents are cut.")
    embedder: str | None = Field(
        default=None,
        description="Model name on the hub, or folder. Default: EMBEDDER_MODEL, else the packaged "
        "all-MiniLM-L6-v2. A change builds a new generation.",
    )
    collection: CollectionSettings = Field(
        default=CollectionSettings(), description="How Weaviate keeps it."
    )
    partitions: int = Field(
        default=1,
        ge=1,
        le=BUCKETS,
        description="Into how many parts it is split, by a hash of the document's id. Each part is "
        "synced by a run of its own (in a cluster: a pod of its own).",
    )
    max_staleness: timedelta = Field(
        default=timedelta(minutes=10),
        gt=timedelta(0),
        description="Oldest a source change may grow before it is live; seconds, or ISO 8601 "
        "such as PT10M.",
    )
    when_false: WhenFalse = Field(
        default="label",
        description="What readers get while a signal of the index that pages is false. label: "
        "what was found, and which signal is false. block: a refusal that says which, and since "
        "when. A warning, or what cannot be told, is labelled and never blocks. (Of batches the "
        "agent's `on_stale_index` decides.)",
    )
    max_delete_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.2,
        description="A sync that would delete more than this share of the documents (and at least "
        "50), or all of them, stops until the deletion is acknowledged.",
    )
    schedule: str = Field(
        default="0 * * * *",
        description="Cron expression, in UTC, of a sync that runs even when nothing seems stale.",
    )
    audit: str = Field(
        default="*/10 * * * *",
        description="Cron expression, in UTC, of the audit: every id and its content, vectors of "
        "some chunks in turn (of all of them within a day), what was deleted.",
    )
    sensor: Literal["running", "stopped"] = Field(
        default="running",
        description="Whether the sensor that syncs a stale index starts switched on.",
    )

    @field_validator("schedule", "audit")
    @classmethod
    def _cron(cls, value: str) -> str:
        if not is_valid_cron_string(value):
            raise ValueError(f"{value!r} is no cron expression, such as '0 * * * *'")
        return value

    @model_validator(mode="before")
    @classmethod
    def _with_variables(cls, attributes: Any) -> Any:
        return filled(attributes)
