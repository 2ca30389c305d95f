"""An index as its YAML describes it, and how to open it.

Belongs here: its name, its keys, and handing it its connections. Does not belong here: the YAML's
fields (`index_config.py`) or the definitions it becomes (`index.py`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import dagster as dg

from agent_pipelines.components.cron import longest_gap
from agent_pipelines.components.index_config import IndexConfig
from agent_pipelines.errors import UserError
from agent_pipelines.health.machine import SUBJECT
from agent_pipelines.indexing.chunking import ChunkerSpec
from agent_pipelines.indexing.embedding import Embedder
from agent_pipelines.indexing.generations import check_index_name
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.partition import Partition, keyed
from agent_pipelines.indexing.sources import Source
from resources.embedder import EmbedderResource
from resources.state import StateResource
from resources.tools import ToolServerResource
from resources.weaviate import WeaviateResource


class ConfiguredIndex:
    """One index of the assets folder."""

    def __init__(self, name: str, config: IndexConfig, folder: Path) -> None:
        self.name = check_index_name(name)
        self.config = config
        if name == SUBJECT:
            raise UserError(
                f"an index cannot be called {name!r}: signals of Dagster, disk and clock are",
                remedy="rename its folder",
            )
        if config.chunking.overlap >= config.chunking.tokens:
            raise UserError(
                f"index {name}: chunking.overlap {config.chunking.overlap} is not below "
                f"chunking.tokens {config.chunking.tokens}",
                remedy="lower the overlap",
            )
        self.source: Source = config.source.open(folder)

    def key(self, asset: str) -> dg.AssetKey:
        """The key of one of the index's assets."""
        return dg.AssetKey([self.name, asset])

    @property
    def job_name(self) -> str:
        """The job that syncs; where the index is split, one partition of it."""
        return f"{self.name}_sync"

    @property
    def live_job_name(self) -> str:
        """The job that commits, once every partition is in step; of a split index only."""
        return f"{self.name}_live"

    @property
    def audit_job_name(self) -> str:
        """The job that looks at everything and changes nothing."""
        return f"{self.name}_audit"

    @property
    def listing_job_name(self) -> str:
        """The job that lists a source which takes too long for the sensor."""
        return f"{self.name}_listing"

    @property
    def rollback_job_name(self) -> str:
        return f"{self.name}_rollback"

    @property
    def audit_every(self) -> timedelta:
        """The longest time between two audits, as they are scheduled."""
        return longest_gap(self.config.audit)

    @property
    def partitions(self) -> Mapping[str, Partition]:
        """The parts of a split index by Dagster's partition key; empty where it is not split."""
        return keyed(self.config.partitions)

    def model(self, embedder: EmbedderResource) -> Embedder:
        """The embedder of this index.

        Raises:
            UserError: it cannot be had, or cannot read chunks of the configured size.
        """
        model = embedder.open(self.config.embedder)
        longest = model.identity.max_tokens
        if self.config.chunking.tokens > longest:
            raise UserError(
                f"index {self.name}: chunking.tokens {self.config.chunking.tokens} is more than "
                f"embedder {model.identity.name} reads ({longest})",
                remedy=f"set chunking.tokens to {longest} or less, or another embedder",
            )
        return model

    @contextmanager
    def open(
        self, weaviate: WeaviateResource, embedder: EmbedderResource, state: StateResource
    ) -> Iterator[Index]:
        """The index with its connections, for as long as the block lasts.

        Raises:
            UserError: the embedder cannot be had, or cannot read chunks of the configured size.
            UnavailableError: the store or the state database does not answer.
        """
        model = self.model(embedder)
        with weaviate.connect(self.config.collection.consistency) as store:
            yield Index(
                name=self.name,
                source=self.source,
                chunker=ChunkerSpec(self.config.chunking.tokens, self.config.chunking.overlap),
                max_delete_share=self.config.max_delete_share,
                max_staleness_seconds=self.config.max_staleness.total_seconds(),
                embedder=model,
                store=store,
                engine=state.engine(),
                settings=self.config.collection,
                when_false=self.config.when_false,
                audit_every=self.audit_every,
                served_by=ToolServerResource().serving_path,
            )
