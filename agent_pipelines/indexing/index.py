"""One index and everything outside that its engine needs, handed in.

Belongs here: the bundle that sync, commit, search and signals share. Does not belong here: opening
any of it (`resources/`) or reading it from YAML (`components/`).
"""

from dataclasses import dataclass, field
from functools import cached_property

from sqlalchemy import Engine

from agent_pipelines.indexing.chunking import ChunkerSpec
from agent_pipelines.indexing.embedding import Embedder
from agent_pipelines.indexing.generations import alias_of
from agent_pipelines.indexing.ledger import Ledger
from agent_pipelines.indexing.partition import WHOLE, Partition
from agent_pipelines.indexing.sources import Source
from agent_pipelines.indexing.spec import Spec
from agent_pipelines.indexing.store import CollectionSettings, VectorStore
from agent_pipelines.state.leases import Lease


@dataclass(frozen=True)
class Index:
    """One thing that agents search."""

    name: str
    source: Source
    chunker: ChunkerSpec
    max_delete_share: float
    max_staleness_seconds: float
    embedder: Embedder
    store: VectorStore
    engine: Engine
    settings: CollectionSettings = field(default_factory=CollectionSettings)

    @property
    def alias(self) -> str:
        return alias_of(self.name)

    @cached_property
    def spec(self) -> Spec:
        return Spec(self.chunker, self.embedder.identity)

    def ledger(
        self, collection: str, partition: Partition = WHOLE, lease: Lease | None = None
    ) -> Ledger:
        return Ledger(self.engine, self.name, collection, partition, lease)
