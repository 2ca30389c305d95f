"""Source changes that are not live yet, and since when: what staleness is measured from.

Belongs here: remembering when a change was first seen, forgetting it once it is live, and what the
listing took that showed it. Does not belong here: what a stale index means for anyone (`health/`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, delete, func, select, update

from agent_pipelines.indexing.batches import batched
from agent_pipelines.indexing.plan import Plan
from agent_pipelines.indexing.sources import Ref
from agent_pipelines.state.engine import read, write
from agent_pipelines.state.tables import documents, listings, source_changes
from agent_pipelines.state.upsert import upsert

#: Changes that are in memory at once.
_SLICE = 1_000


@dataclass(frozen=True)
class Known:
    """What the last complete listing said."""

    since: datetime | None
    """When the oldest change that is not live happened; None if there is none."""
    count: int
    """How many changes are not live."""
    deleted: int
    """How many of them are deletions."""
    listed: int
    """How many documents the source has."""
    listed_at: datetime | None
    """When the source was listed: of changes since then nobody knows. None: it never was."""
    seconds: float
    """What that took."""
    begun_at: datetime | None
    """When a look began to list it that has neither ended nor failed since."""

    def takes_longer_than(self, seconds: float, now: datetime) -> bool:
        """Whether listing the source takes longer: it did, or does, or was killed over it."""
        begun = self.begun_at is not None and (now - self.begun_at).total_seconds() > seconds
        return self.seconds > seconds or begun


def observe(engine: Engine, index: str, plan: Plan, *, listed_at: datetime, seconds: float) -> None:
    """Record a complete listing's differences from the ledger, and what the listing took.

    A change new in this listing happened after the listing before it, and no earlier: it dates
    from the source's own time of modification where that lies between the two, from the earlier
    listing where it does not. So staleness is never understated, and a file that was copied in
    with an old time of modification does not look stale since then.
    """
    with write(engine) as connection:
        before = connection.scalar(
            select(listings.c.listed_at).where(listings.c.index_name == index)
        )
        for some in batched(plan.changes(), _SLICE):
            rows = [
                {
                    "index_name": index,
                    "document_id": id_,
                    "version": ref.version if ref else "",
                    "since": _dated(ref, before or listed_at, listed_at),
                    "listed_at": listed_at,
                }
                for id_, ref in some
            ]
            # A change that was seen before keeps its date.
            upsert(connection, source_changes, rows, overwrite=("version", "listed_at"))
        # But for one that lies ahead, as whoever's clock was fast has left it: until then nothing
        # would be stale.
        connection.execute(
            update(source_changes)
            .where(source_changes.c.index_name == index, source_changes.c.since > listed_at)
            .values(since=min(before or listed_at, listed_at))
        )
        connection.execute(
            delete(source_changes).where(
                source_changes.c.index_name == index, source_changes.c.listed_at != listed_at
            )
        )
        listing = {
            "index_name": index,
            "listed_at": listed_at,
            "source_digest": plan.source_digest,
            "documents": plan.listed,
            "seconds": seconds,
            "begun_at": None,
        }
        columns = ("listed_at", "source_digest", "documents", "seconds", "begun_at")
        upsert(connection, listings, [listing], overwrite=columns)


def begin(engine: Engine, index: str, at: datetime) -> None:
    """Record that a look lists the source, should it not live to tell."""
    with write(engine) as connection:
        connection.execute(
            update(listings).where(listings.c.index_name == index).values(begun_at=at)
        )


def fail(engine: Engine, index: str) -> None:
    """Record that a listing failed: the next look lists for itself, and tells why."""
    with write(engine) as connection:
        connection.execute(
            update(listings)
            .where(listings.c.index_name == index)
            .values(begun_at=None, seconds=0.0)
        )


def forget(engine: Engine, index: str, collection: str) -> None:
    """Drop the changes that this generation's ledger holds; called when it becomes live."""
    row = documents.c
    in_ledger = select(row.version).where(
        row.collection == collection,
        row.document_id == source_changes.c.document_id,
        row.state != "pending",
    )
    deleted = (source_changes.c.version == "") & ~in_ledger.exists()
    upserted = source_changes.c.version == in_ledger.scalar_subquery()
    with write(engine) as connection:
        connection.execute(
            delete(source_changes).where(source_changes.c.index_name == index, deleted | upserted)
        )


def oldest(engine: Engine, index: str) -> datetime | None:
    """When the oldest known change that is not live happened; None if there is none."""
    query = select(func.min(source_changes.c.since)).where(source_changes.c.index_name == index)
    with engine.connect() as connection:
        since: datetime | None = connection.scalar(query)
    return since


def known(engine: Engine, index: str) -> Known:
    """What the last complete listing said, less what has become live since.

    Raises:
        UnavailableError: the state database does not answer.
    """
    deleted = func.count().filter(source_changes.c.version == "")
    changed = select(func.min(source_changes.c.since), func.count(), deleted).where(
        source_changes.c.index_name == index
    )
    listed = select(listings).where(listings.c.index_name == index)
    with read(engine) as connection:
        since, count, gone = connection.execute(changed).one()
        row = connection.execute(listed).first()
    return Known(
        since,
        count,
        gone,
        listed=row.documents if row else 0,
        listed_at=row.listed_at if row else None,
        seconds=row.seconds if row else 0.0,
        begun_at=row.begun_at if row else None,
    )


def waiting(
    engine: Engine, index: str, *, limit: int | None = None, deleted: bool = False
) -> Sequence[tuple[str, bool]]:
    """The documents that changed, whose change is oldest first, and whether each was deleted.

    With ``deleted`` those alone that were.
    """
    columns = source_changes.c
    query = (
        select(columns.document_id, columns.version == "")
        .where(columns.index_name == index, (columns.version == "") | (not deleted))
        .order_by(columns.since, columns.document_id)
        .limit(limit)
    )
    with read(engine) as connection:
        return [(id_, bool(deleted)) for id_, deleted in connection.execute(query)]


def _dated(ref: Ref | None, earliest: datetime, latest: datetime) -> datetime:
    if ref is not None and ref.modified_at is not None and earliest < ref.modified_at < latest:
        return ref.modified_at
    return min(earliest, latest)
