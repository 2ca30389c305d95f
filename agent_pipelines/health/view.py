"""The outside world as one evaluation sees it: each thing asked for at most once.

Belongs here: looking at source, state database and store on behalf of the signals, so that all of
them speak of the same moment. Does not belong here: judging what was seen.
"""

from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
from sqlalchemy import Engine

from agent_pipelines.health.serving import InThisProcess
from agent_pipelines.indexing import changes, generations, live, rotation
from agent_pipelines.indexing.generations import Generation
from agent_pipelines.indexing.golden import cosine, golden_vector
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.ledger import Counts, Ledger
from agent_pipelines.indexing.listing import Listing
from agent_pipelines.indexing.live import Snapshot
from agent_pipelines.indexing.plan import Plan, make_plan
from agent_pipelines.indexing.reconcile import Census, is_sound
from agent_pipelines.indexing.serving import ServingPath
from agent_pipelines.indexing.store import Stored


class CannotTellError(Exception):
    """Something that a signal speaks of cannot be seen now; not an alarm in itself."""


class View:
    """What one evaluation of an index's signals looks at. Use it as a context manager."""

    def __init__(self, index: Index, *, committed: bool) -> None:
        """See the committed generation, or (`committed=False`) the one about to be."""
        self.index = index
        self.now = datetime.now(UTC)
        self._committed = committed
        self._held = ExitStack()

    @property
    def engine(self) -> Engine:
        return self.index.engine

    @property
    def subject(self) -> str:
        return self.index.name

    def __enter__(self) -> "View":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @cached_property
    def generation(self) -> Generation:
        """The generation under examination, at rest."""
        found = self._generation()
        if found is None:
            raise CannotTellError("the index was never committed")
        if found.source_digest is None:
            raise CannotTellError("a sync is in flight, or stopped before its end")
        return found

    @property
    def undisturbed(self) -> bool:
        """Whether what was looked at is as it was: no sync and no commit came between."""
        seen = vars(self)  # cached properties that were asked for
        return ("generation" not in seen or self._generation() == self.generation) and (
            "snapshot" not in seen
            or live.latest(self.index.engine, self.index.name) == self.snapshot
        )

    def _generation(self) -> Generation | None:
        engine, name = self.index.engine, self.index.name
        if self._committed:
            return generations.live(engine, name)
        return generations.under(engine, name, self.index.spec)

    @cached_property
    def ledger(self) -> Ledger:
        return self.index.ledger(self.generation.collection)

    @cached_property
    def counts(self) -> Counts:
        """What the ledger of that generation holds, by state."""
        return self.ledger.counts()

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
        listing = self._held.enter_context(Listing(self.index.source.list()))
        plan = make_plan(listing, self.index.ledger(self.snapshot.collection).documents())
        changes.observe(self.index.engine, self.index.name, plan, listed_at=self.now)
        return plan

    @cached_property
    def serving(self) -> ServingPath:
        """The way that readers take; one connection for the whole evaluation."""
        path = self.index.served_by()
        return InThisProcess(self.index) if path is None else self._held.enter_context(path)

    @cached_property
    def census(self) -> Census:
        """One scan over every object; shared by all signals that need it."""
        census = Census(self.index.store, self.generation, self.ledger)
        return self._held.enter_context(census)

    @cached_property
    def golden_likeness(self) -> float | None:
        """Cosine of the golden vector now with the generation's; None where that has none yet."""
        if self.generation.embedder != self.index.embedder.identity:
            raise CannotTellError("the generation was built by another embedder")
        before = self.generation.golden_vector
        if before is None:
            return None
        return cosine(np.asarray(before, np.float32), golden_vector(self.index.embedder))

    @cached_property
    def turn(self) -> rotation.Turn:
        """The chunks that are looked at this time, of those that are looked at in turn."""
        return rotation.turn(
            self.engine, self.generation.collection, self.ledger, self.counts.chunks
        )

    @cached_property
    def in_turn(self) -> list[Stored]:
        """The same as the store has them: those that are there, and are what they claim to be.

        What is not is seen by the signals that look at everything.
        """
        found = self.index.store.get(self.generation.collection, self.turn.ids)
        known = self.ledger.entries(self.turn.ids)
        return [s for id_, s in found.items() if id_ in known and is_sound(s, self.generation)]
