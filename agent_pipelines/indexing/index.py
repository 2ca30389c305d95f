"""One index and everything outside that its engine needs, handed in.

Belongs here: the bundle that sync, commit, search and signals share. Does not belong here: opening
any of it (`resources/`) or reading it from YAML (`components/`).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Literal

from sqlalchemy import Engine

from agent_pipelines.indexing.chunking import ChunkerSpec
from agent_pipelines.indexing.embedding import Embedder
from agent_pipelines.indexing.generations import alias_of
from agent_pipelines.indexing.ledger import Ledger
from agent_pipelines.indexing.partition import WHOLE, Partition
from agent_pipelines.indexing.serving import ServingPath
from agent_pipelines.indexing.sources import Source
from agent_pipelines.indexing.spec import Spec
from agent_pipelines.indexing.store import CollectionSettings, VectorStore
from agent_pipelines.state.leases import Lease

#: What readers get of an index while a signal of it is false.
WhenFalse = Literal["label", "block"]


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
    when_false: WhenFalse = "label"
    audit_every: timedelta = timedelta(minutes=10)
    """The longest time between two audits, as they are scheduled."""
    served_by: Callable[[], AbstractContextManager[ServingPath] | None] = lambda: None
    """Opens the way to the readers that probes take; None: they search in this process."""

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
