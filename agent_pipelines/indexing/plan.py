"""Listing against ledger: what a sync has to do. Nothing outside is read or written here.

Belongs here: the comparison, and the refusal to delete on a doubtful listing. Does not belong
here: what happens to a document once it is picked.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice

from agent_pipelines.indexing.ledger import DocumentRow
from agent_pipelines.indexing.listing import Listing, refs_in
from agent_pipelines.indexing.partition import WHOLE, Partition, bucket_of
from agent_pipelines.indexing.sources import Ref

#: Fewer deletions than this are never called a mass deletion.
MASS_DELETION_MIN = 50

#: Listed, and not in the ledger as it is listed; or caught mid-write by a crash.
_UPSERT = (
    "FROM listed LEFT JOIN {known} AS known USING (id) WHERE listed.bucket % ? = ? AND "
    "(known.id IS NULL OR known.state = 'pending' OR known.version <> listed.version)"
)
_RETRY = (
    "FROM listed JOIN {known} AS known USING (id) WHERE listed.bucket % ? = ? AND "
    "known.state = 'failed' AND known.version = listed.version"
)
_DELETE = (
    "FROM {known} AS known LEFT JOIN listed USING (id) WHERE known.bucket % ? = ? AND "
    "listed.id IS NULL"
)


class DoubtfulListingError(Exception):
    """The listing may be wrong in a way that would delete what should stay."""


@dataclass(frozen=True)
class Plan:
    """What the source has and the ledger does not, and the other way round, in order of id.

    It lives in the listing's temporary database, and no longer than that.
    """

    listing: Listing
    known: str
    """The table that holds the ledger's documents."""
    indexed: int
    """Documents in the ledger, of the whole index."""
    partition: Partition = WHOLE

    def of(self, partition: Partition) -> "Plan":
        """The same comparison, of one partition's documents only."""
        return replace(self, partition=partition)

    @cached_property
    def source_digest(self) -> str:
        """Digest of what is listed."""
        return self.listing.digest(self.partition)

    @cached_property
    def listed(self) -> int:
        """How many documents are listed."""
        return self._count("FROM listed WHERE listed.bucket % ? = ?")

    @cached_property
    def upserts(self) -> int:
        return self._count(_UPSERT)

    @cached_property
    def retries(self) -> int:
        return self._count(_RETRY)

    @cached_property
    def deletions(self) -> int:
        return self._count(_DELETE)

    @property
    def changed(self) -> int:
        """How many source changes are not in the ledger yet."""
        return self.upserts + self.deletions

    def upsert(self) -> Iterator[Ref]:
        """New, changed, or caught mid-write by a crash."""
        return self._refs(_UPSERT)

    def retry(self) -> Iterator[Ref]:
        """Failed before and unchanged since: worth another try, but no reason to start a sync."""
        return self._refs(_RETRY)

    def delete(self) -> Iterator[str]:
        """Ids of documents that are no longer in the source."""
        query = f"SELECT known.id {_DELETE} ORDER BY known.id".format(known=self.known)
        return (id_ for (id_,) in self.listing.database.execute(query, self._slice))

    def changes(self) -> Iterator[tuple[str, Ref | None]]:
        """Every source change that is not in the ledger yet; None stands for a deletion."""
        return chain(
            ((ref.id, ref) for ref in self.upsert()), ((id_, None) for id_ in self.delete())
        )

    @property
    def _slice(self) -> tuple[int, int]:
        return self.partition.of, self.partition.number

    def _count(self, clause: str) -> int:
        query = f"SELECT count(*) {clause}".format(known=self.known)
        return int(self.listing.database.execute(query, self._slice).fetchone()[0])

    def _refs(self, clause: str) -> Iterator[Ref]:
        columns = "listed.id, listed.version, listed.modified_at"
        query = f"SELECT {columns} {clause} ORDER BY listed.id".format(known=self.known)
        return refs_in(self.listing.database, query, self._slice)


def make_plan(listing: Listing, ledger: Iterable[DocumentRow]) -> Plan:
    """Compare a listing with the documents of a ledger. Memory grows with neither."""
    database = listing.database
    tables = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    known = f"known_{tables}"
    database.execute(
        f"CREATE TABLE {known} (id TEXT PRIMARY KEY, version TEXT, state TEXT, bucket INTEGER) "
        "WITHOUT ROWID"
    )
    database.execute("BEGIN")
    indexed = database.executemany(
        f"INSERT INTO {known} VALUES (?, ?, ?, ?)",
        ((row.id, row.version, row.state, bucket_of(row.id)) for row in ledger),
    ).rowcount
    database.execute("COMMIT")
    return Plan(listing, known, max(indexed, 0))


def refuse_mass_deletion(plan: Plan, *, max_delete_share: float) -> None:
    """Stop a sync that would delete much of the index, or all of it.

    Raises:
        DoubtfulListingError: naming what would go and how to acknowledge it.
    """
    doubt = mass_deletion(
        plan.deletions,
        plan.delete(),
        listed=plan.listed,
        indexed=plan.indexed,
        max_delete_share=max_delete_share,
    )
    if doubt is not None:
        raise DoubtfulListingError(doubt)


def mass_deletion(
    deleted: int, ids: Iterable[str], *, listed: int, indexed: int, max_delete_share: float
) -> str | None:
    """What would go, where a listing takes away so much that it is to be doubted; else None."""
    mass = deleted >= MASS_DELETION_MIN and deleted > max_delete_share * indexed
    emptied = deleted > 0 and listed == 0
    if not (mass or emptied):
        return None
    some = ", ".join(islice(ids, 10))
    return (
        f"the source now lists {listed} documents; {deleted} of {indexed} indexed ones would be "
        f"deleted: {some}{', …' if deleted > 10 else ''}"
    )
