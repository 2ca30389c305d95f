"""Listing against ledger: what a sync has to do. Pure; nothing is read or written here.

Belongs here: the comparison, and the refusal to delete on a doubtful listing. Does not belong
here: what happens to a document once it is picked.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent_pipelines.indexing.ledger import DocumentRow
from agent_pipelines.indexing.sources import Listing, Ref

#: Fewer deletions than this are never called a mass deletion.
MASS_DELETION_MIN = 50


class DoubtfulListingError(Exception):
    """The listing may be wrong in a way that would delete what should stay."""


@dataclass(frozen=True)
class Plan:
    """What the source has and the ledger does not, and the other way round."""

    listed: int
    source_digest: str
    upsert: Sequence[Ref]
    """New, changed, or caught mid-write by a crash."""
    retry: Sequence[Ref]
    """Failed before and unchanged since: worth another try, but no reason to start a sync."""
    delete: Sequence[str]
    """Ids of documents that are no longer in the source."""

    @property
    def changes(self) -> Mapping[str, Ref | None]:
        """Every source change that is not in the ledger yet, by document id; None is a deletion."""
        return {ref.id: ref for ref in self.upsert} | dict.fromkeys(self.delete)


def make_plan(listing: Listing, ledger: Mapping[str, DocumentRow]) -> Plan:
    """Compare a listing with the ledger.

    Raises:
        DoubtfulListingError: the listing is incomplete, or names a document twice.
    """
    if listing.incomplete:
        raise DoubtfulListingError(f"the listing is incomplete: {listing.incomplete}")
    listed = {ref.id: ref for ref in listing.refs}
    if len(listed) != len(listing.refs):
        twice = [id_ for id_, n in Counter(ref.id for ref in listing.refs).items() if n > 1]
        raise DoubtfulListingError(f"the listing names documents twice: {', '.join(twice[:10])}")
    unseen = [ref for ref in listed.values() if not _seen(ref, ledger.get(ref.id))]
    return Plan(
        listed=len(listed),
        source_digest=source_digest(listing.refs),
        upsert=unseen,
        retry=[
            ref
            for ref in listed.values()
            if _seen(ref, row := ledger.get(ref.id)) and row is not None and row.state == "failed"
        ],
        delete=[id_ for id_ in ledger if id_ not in listed],
    )


def refuse_mass_deletion(plan: Plan, *, indexed: int, max_delete_share: float) -> None:
    """Stop a sync that would delete much of the index, or all of it.

    Raises:
        DoubtfulListingError: naming what would go and how to acknowledge it.
    """
    deleted = len(plan.delete)
    mass = deleted >= MASS_DELETION_MIN and deleted > max_delete_share * indexed
    emptied = deleted > 0 and plan.listed == 0
    if mass or emptied:
        some = ", ".join(plan.delete[:10]) + (", …" if deleted > 10 else "")
        raise DoubtfulListingError(
            f"the source now lists {plan.listed} documents; {deleted} of {indexed} indexed ones "
            f"would be deleted: {some}"
        )


def source_digest(refs: Sequence[Ref]) -> str:
    """SHA-256 over every document's id and version, in order of id."""
    digest = hashlib.sha256()
    for ref in sorted(refs, key=lambda r: r.id):
        digest.update(f"{ref.id}\0{ref.version}\n".encode())
    return digest.hexdigest()


def _seen(ref: Ref, row: DocumentRow | None) -> bool:
    return row is not None and row.state != "pending" and row.version == ref.version
