"""Listing against ledger: any pair of them gives a plan that, once done, leaves nothing to do."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pipelines.indexing.ledger import DocumentRow
from agent_pipelines.indexing.listing import Listing
from agent_pipelines.indexing.partition import BUCKETS, Partition, bucket_of
from agent_pipelines.indexing.plan import (
    MASS_DELETION_MIN,
    DoubtfulListingError,
    Plan,
    make_plan,
    refuse_mass_deletion,
)
from agent_pipelines.indexing.sources import Ref, SourceError

IDS = st.sampled_from([f"d{n}" for n in range(12)])
VERSIONS = st.sampled_from(["1", "2", "3"])
REFS = st.dictionaries(IDS, VERSIONS).map(lambda d: [Ref(i, v) for i, v in d.items()])
STATES = st.sampled_from(["pending", "indexed", "failed"])
LEDGERS = st.dictionaries(IDS, st.tuples(VERSIONS, STATES)).map(
    lambda d: {id_: DocumentRow(id_, version, state) for id_, (version, state) in d.items()}
)


def plan_of(refs: list[Ref], ledger: dict[str, DocumentRow]) -> Plan:
    return make_plan(Listing(refs), ledger.values())


def after(plan: Plan, ledger: dict[str, DocumentRow]) -> dict[str, DocumentRow]:
    """The ledger once everything in the plan was done and went well."""
    refs = [*plan.upsert(), *plan.retry()]
    done = ledger | {ref.id: DocumentRow(ref.id, ref.version, "indexed") for ref in refs}
    gone = set(plan.delete())
    return {id_: row for id_, row in done.items() if id_ not in gone}


def counts(plan: Plan) -> tuple[int, int, int]:
    return plan.upserts, plan.retries, plan.deletions


@given(REFS, LEDGERS)
def test_a_plan_that_was_done_leaves_an_empty_one(
    refs: list[Ref], ledger: dict[str, DocumentRow]
) -> None:
    plan = plan_of(refs, ledger)
    ledger = after(plan, ledger)
    assert {id_: row.version for id_, row in ledger.items()} == {r.id: r.version for r in refs}
    again = plan_of(refs, ledger)
    assert counts(again) == (0, 0, 0)
    assert again.source_digest == plan.source_digest


@given(REFS, LEDGERS)
def test_every_document_has_one_fate_and_every_difference_is_a_change(
    refs: list[Ref], ledger: dict[str, DocumentRow]
) -> None:
    plan = plan_of(refs, ledger)
    upsert, retry, delete = (
        [r.id for r in plan.upsert()],
        [r.id for r in plan.retry()],
        plan.delete(),
    )
    picked = [*upsert, *retry, *delete]
    assert len(picked) == len(set(picked)) == sum(counts(plan))
    assert set(plan.delete()) == ledger.keys() - {ref.id for ref in refs}
    settled = {id_: r.version for id_, r in ledger.items() if r.state != "pending"}
    differing = {ref.id for ref in refs if settled.get(ref.id) != ref.version}
    assert dict(plan.changes()).keys() == differing | set(plan.delete())
    assert (plan.listed, plan.indexed) == (len(refs), len(ledger))


@given(REFS, LEDGERS, st.integers(1, 5))
def test_the_parts_of_a_plan_are_the_whole_plan(
    refs: list[Ref], ledger: dict[str, DocumentRow], of: int
) -> None:
    """Else a document would be nobody's to sync, or two runs would write it."""
    plan = plan_of(refs, ledger)
    parts = [plan.of(Partition(number, of)) for number in range(of)]
    for whole, split in (
        (plan.upsert, [p.upsert() for p in parts]),
        (plan.retry, [p.retry() for p in parts]),
    ):
        assert sorted(r.id for part in split for r in part) == sorted(r.id for r in whole())
    assert sorted(id_ for part in parts for id_ in part.delete()) == sorted(plan.delete())
    assert sum(part.listed for part in parts) == plan.listed
    for number, part in enumerate(parts):
        assert all(Partition(number, of).has(ref.id) for ref in part.upsert())


def test_a_partition_is_its_buckets() -> None:
    for of in (1, 3, BUCKETS):
        parts = [Partition(number, of) for number in range(of)]
        assert sorted(b for part in parts for b in part.buckets) == list(range(BUCKETS))
        for id_ in ("a", "ü/b.md", "12"):
            (owner,) = (part for part in parts if part.has(id_))
            assert bucket_of(id_) in owner.buckets


@given(REFS)
def test_the_digest_does_not_depend_on_the_order_of_the_listing(refs: list[Ref]) -> None:
    assert Listing(refs).digest() == Listing(refs[::-1]).digest()


def test_a_failed_document_that_did_not_change_is_a_retry_and_no_change() -> None:
    """Else a file that nobody mends would make the index stale, and sync it, for ever."""
    failed = {"d": DocumentRow("d", "1", "failed")}
    plan = plan_of([Ref("d", "1")], failed)
    assert (counts(plan), plan.changed) == ((0, 1, 0), 0)
    changed = plan_of([Ref("d", "2")], failed)
    assert (counts(changed), changed.changed) == ((1, 0, 0), 1)


def test_a_listing_that_breaks_off_or_names_a_document_twice_is_none_at_all() -> None:
    def breaks_off() -> Iterator[Ref]:
        yield Ref("a", "1")
        raise SourceError("page 3 timed out")

    with pytest.raises(SourceError, match="page 3 timed out"):
        Listing(breaks_off())
    with pytest.raises(SourceError, match="twice: a"):
        Listing([Ref("a", "1"), Ref("b", "1"), Ref("a", "2")])
    with pytest.raises(SourceError, match="is not text"):
        Listing([Ref("\udcff", "1")])
    with pytest.raises(SourceError, match="has 1025 characters"):
        Listing([Ref("a" * 1025, "1")])


def test_a_version_of_any_length_is_a_version() -> None:
    """What a server answers may be one; PostgreSQL holds 255 characters of it."""
    (one,) = Listing([Ref("a", "v" * 256)]).refs()
    (other,) = Listing([Ref("a", "v" * 257)]).refs()
    assert one.version != other.version
    assert len(one.version) <= 255


def a_plan(*, indexed: int, deleted: int, new: int = 0) -> Plan:
    ledger = {f"d{n}": DocumentRow(f"d{n}", "1", "indexed") for n in range(indexed)}
    refs = [Ref(id_, "1") for id_ in list(ledger)[deleted:]]
    return plan_of(refs + [Ref(f"new{n}", "1") for n in range(new)], ledger)


@given(
    indexed=st.integers(0, 300),
    deleted=st.integers(0, 300),
    new=st.integers(0, 3),
    share=st.floats(0, 1),
)
def test_only_a_mass_deletion_or_an_emptied_source_is_refused(
    indexed: int, deleted: int, new: int, share: float
) -> None:
    deleted = min(deleted, indexed)
    plan = a_plan(indexed=indexed, deleted=deleted, new=new)
    mass = deleted >= MASS_DELETION_MIN and deleted > share * indexed
    emptied = deleted > 0 and plan.listed == 0
    if mass or emptied:
        with pytest.raises(DoubtfulListingError, match=f"{deleted} of {indexed}"):
            refuse_mass_deletion(plan, max_delete_share=share)
    else:
        refuse_mass_deletion(plan, max_delete_share=share)


def test_the_bounds_of_a_mass_deletion() -> None:
    refuse_mass_deletion(a_plan(indexed=50, deleted=49), max_delete_share=0.2)
    refuse_mass_deletion(a_plan(indexed=250, deleted=50), max_delete_share=0.2)
    for indexed, deleted in ((250, 51), (1, 1), (49, 49)):
        with pytest.raises(DoubtfulListingError):
            refuse_mass_deletion(a_plan(indexed=indexed, deleted=deleted), max_delete_share=0.2)
