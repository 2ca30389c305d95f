"""The outside world as one evaluation sees it: each thing asked for at most once.

Belongs here: looking at source, state database and store on behalf of the signals, so that all of
them speak of the same moment. Does not belong here: judging what was seen.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from agent_pipelines.indexing import changes, generations, live, reconcile
from agent_pipelines.indexing.embedding import flaw
from agent_pipelines.indexing.generations import Generation
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.ledger import Ledger
from agent_pipelines.indexing.live import Snapshot
from agent_pipelines.indexing.plan import Plan, make_plan
from agent_pipelines.indexing.search import IndexSearcher, Searcher


class CannotTellError(Exception):
    """Something that a signal speaks of cannot be seen now; not an alarm in itself."""


@dataclass(frozen=True)
class Census:
    """Every object of a generation, compared with the ledger."""

    objects: int
    missing: list[str]
    orphans: list[str]
    altered: list[str]
    """Stored text, document or position is not what the ledger has for it."""
    foreign: list[str]
    """Built under another spec."""
    flawed: dict[str, str]
    """What is wrong with a vector, by chunk id."""


class View:
    """What one evaluation of an index's signals looks at."""

    def __init__(self, index: Index, *, committed: bool) -> None:
        """See the committed generation, or (`committed=False`) the one about to be."""
        self.index = index
        self.now = datetime.now(UTC)
        self._committed = committed

    @cached_property
    def generation(self) -> Generation:
        """The generation under examination, at rest."""
        found = (
            generations.live(self.index.engine, self.index.name)
            if self._committed
            else generations.under(self.index.engine, self.index.name, self.index.spec)
        )
        if found is None:
            raise CannotTellError("the index was never committed")
        if found.source_digest is None:
            raise CannotTellError("a sync is in flight, or stopped before its end")
        return found

    @cached_property
    def ledger(self) -> Ledger:
        return self.index.ledger(self.generation.collection)

    @cached_property
    def snapshot(self) -> Snapshot:
        """What was committed last."""
        found = live.latest(self.index.engine, self.index.name)
        if found is None:
            raise CannotTellError("the index was never committed")
        return found

    @property
    def unfinished(self) -> bool:
        """Whether a sync stopped before its end, or none ever committed."""
        found = generations.live(self.index.engine, self.index.name)
        return found is None or found.source_digest is None

    @cached_property
    def plan(self) -> Plan:
        """The source now, against the ledger; also dates the changes that it finds."""
        listing = self.index.source.list()
        plan = make_plan(listing, self.index.ledger(self.snapshot.collection).documents())
        changes.observe(self.index.engine, self.index.name, plan, listed_at=self.now)
        return plan

    @cached_property
    def searcher(self) -> Searcher:
        return IndexSearcher({self.index.name: self.index})

    @cached_property
    def census(self) -> Census:
        """One scan over every object; shared by all signals that need it."""
        entries = self.ledger.entries()
        identity = self.index.embedder.identity
        seen: set[str] = set()
        orphans, altered, foreign = [], [], []
        flawed: dict[str, str] = {}
        for stored in self.index.store.scan(self.generation.collection, vectors=True):
            chunk = stored.chunk
            seen.add(chunk.id)
            if chunk.id not in entries:
                orphans.append(chunk.id)
                continue
            if reconcile.altered(stored, entries[chunk.id]):
                altered.append(chunk.id)
            if stored.fingerprint != self.generation.fingerprint:
                foreign.append(chunk.id)
            wrong = "is missing" if stored.vector is None else flaw(stored.vector, identity)
            if wrong:
                flawed[chunk.id] = wrong
        missing = [id_ for id_ in entries if id_ not in seen]
        return Census(len(seen), missing, orphans, altered, foreign, flawed)
