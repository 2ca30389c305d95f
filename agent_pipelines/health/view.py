"""The outside world as one evaluation sees it: each thing asked for at most once.

Belongs here: looking at source, state database and store on behalf of the signals, so that all of
them speak of the same moment. Does not belong here: judging what was seen.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import cached_property, wraps
from time import monotonic
from typing import TypeVar

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
from agent_pipelines.indexing.plan import make_plan
from agent_pipelines.indexing.reconcile import Census, is_sound
from agent_pipelines.indexing.serving import ServingPath
from agent_pipelines.indexing.sources import Ref
from agent_pipelines.indexing.store import Stored


class CannotTellError(Exception):
    """Something that a signal speaks of cannot be seen now; not an alarm in itself."""


#: Seconds that listing a source may take where a person or a sensor waits: Dagster ends a sensor's
#: tick after 60.
_PATIENCE = 20.0

#: Of `max_staleness`, the share after which a source that a run must list is listed again.
_LISTED_EVERY = 0.25


_T = TypeVar("_T")


def _once(look: Callable[["View"], _T]) -> cached_property[_T]:
    """Asked for once, whatever comes of it: no signal waits again for what cannot be seen."""

    @wraps(look)
    def seen(view: "View") -> _T:
        if (unseen := view._unseen.get(look.__name__)) is not None:
            raise unseen
        try:
            return look(view)
        except Exception as error:
            view._unseen[look.__name__] = error
            raise

    return cached_property(seen)


class View:
    """What one evaluation of an index's signals looks at. Use it as a context manager."""

    def __init__(self, index: Index, *, committed: bool, in_run: bool = False) -> None:
        """See the committed generation, or (`committed=False`) the one about to be.

        A run (`in_run`) has time for a source that takes long to list. Everybody else goes by what
        the last run has found.
        """
        self.index = index
        self.now = datetime.now(UTC)
        self._committed = committed
        self._in_run = in_run
        self._held = ExitStack()
        self._unseen: dict[str, Exception] = {}

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

    @_once
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
        return (
            # First: a commit that ends after this has left another snapshot.
            not live.is_committing(self.index)
            and ("generation" not in seen or self._generation() == self.generation)
            and (
                "snapshot" not in seen
                or live.latest(self.index.engine, self.index.name) == self.snapshot
            )
        )

    def _generation(self) -> Generation | None:
        engine, name = self.index.engine, self.index.name
        if self._committed:
            return generations.live(engine, name)
        return generations.under(engine, name, self.index.spec)

    @_once
    def ledger(self) -> Ledger:
        return self.index.ledger(self.generation.collection)

    @_once
    def counts(self) -> Counts:
        """What the ledger of that generation holds, by state."""
        return self.ledger.counts()

    @_once
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

    @_once
    def changes(self) -> changes.Known:
        """What readers do not get of the source: by a listing now, or by the last run's."""
        known = changes.known(self.engine, self.subject)
        if self._in_run or not known.takes_longer_than(_PATIENCE, self.now):
            self._list()
            return changes.known(self.engine, self.subject)
        age = self.now - known.listed_at if known.listed_at else timedelta.max
        if age.total_seconds() > self.index.max_staleness_seconds:
            raise CannotTellError(
                f"{_TOO_LONG}, and it was last listed {known.listed_at or 'never'}"
            )
        return known

    @property
    def wants_listing(self) -> bool:
        """Whether a run should list the source now, which takes too long for everybody else."""
        known, now = changes.known(self.engine, self.subject), datetime.now(UTC)
        if known.listed_at is None or not known.takes_longer_than(_PATIENCE, now):
            return False
        pause = max(known.seconds, _LISTED_EVERY * self.index.max_staleness_seconds)
        return now - known.listed_at >= timedelta(seconds=pause)

    def _list(self) -> None:
        """Compare the source with the ledger, and date the changes that are found."""
        documents = self.index.ledger(self.snapshot.collection).documents
        if not self._in_run:
            changes.begin(self.engine, self.subject, self.now)
        began = monotonic()
        try:
            refs = self.index.source.list()
            with Listing(refs if self._in_run else _in_time(refs)) as listing:
                seconds = monotonic() - began
                plan = make_plan(listing, documents())
                changes.observe(
                    self.engine, self.subject, plan, listed_at=self.now, seconds=seconds
                )
        except _TooLongError as error:
            raise CannotTellError(str(error)) from None
        except Exception:
            changes.fail(self.engine, self.subject)
            raise

    @_once
    def serving(self) -> ServingPath:
        """The way that readers take; one connection for the whole evaluation."""
        path = self.index.served_by()
        return InThisProcess(self.index) if path is None else self._held.enter_context(path)

    @_once
    def census(self) -> Census:
        """One scan over every object; shared by all signals that need it."""
        census = Census(self.index.store, self.generation, self.ledger)
        return self._held.enter_context(census)

    @_once
    def golden_likeness(self) -> float | None:
        """Cosine of the golden vector now with the generation's; None where that has none yet."""
        if self.generation.embedder != self.index.embedder.identity:
            raise CannotTellError("the generation was built by another embedder")
        before = self.generation.golden_vector
        if before is None:
            return None
        return cosine(np.asarray(before, np.float32), golden_vector(self.index.embedder))

    @_once
    def turn(self) -> rotation.Turn:
        """The chunks that are looked at this time, of those that are looked at in turn."""
        return rotation.turn(
            self.engine, self.generation.collection, self.ledger, self.counts.chunks
        )

    @_once
    def in_turn(self) -> list[Stored]:
        """The same as the store has them: those that are there, and are what they claim to be.

        What is not is seen by the signals that look at everything.
        """
        found = self.index.store.get(self.generation.collection, self.turn.ids)
        known = self.ledger.entries(self.turn.ids)
        return [s for id_, s in found.items() if id_ in known and is_sound(s, self.generation)]


_TOO_LONG = f"the source takes longer than {_PATIENCE:g} s to list, which a run does"


class _TooLongError(Exception):
    """A listing that whoever looks has no time for."""


def _in_time(refs: Iterable[Ref]) -> Iterator[Ref]:
    """The same, as long as there is time.

    Raises:
        _TooLongError: there is no more.
    """
    began = monotonic()
    for ref in refs:
        if monotonic() - began > _PATIENCE:
            raise _TooLongError(_TOO_LONG)
        yield ref
