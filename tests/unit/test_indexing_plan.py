"""Listing against ledger: any pair of them gives a plan that, once done, leaves nothing to do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pipelines.indexing.ledger import DocumentRow
from agent_pipelines.indexing.plan import (
    MASS_DELETION_MIN,
    DoubtfulListingError,
    Plan,
    make_plan,
    refuse_mass_deletion,
    source_digest,
)
from agent_pipelines.indexing.sources import Listing, Ref

IDS = st.sampled_from([f"d{n}" for n in range(12)])
VERSIONS = st.sampled_from(["1", "2", "3"])
REFS = st.dictionaries(IDS, VERSIONS).map(lambda d: [Ref(i, v) for i, v in d.items()])
ROWS = st.builds(
    DocumentRow,
    version=VERSIONS,
    content_hash=st.just("h"),
    state=st.sampled_from(["pending", "indexed", "failed"]),
    error=st.none(),
)
LEDGERS = st.dictionaries(IDS, ROWS)


def after(plan: Plan, ledger: dict[str, DocumentRow]) -> dict[str, DocumentRow]:
    """The ledger once everything in the plan was done and went well."""
    done = {ref.id: DocumentRow(ref.version, "h", "indexed", None) for ref in plan.upsert}
    done |= {ref.id: DocumentRow(ref.version, "h", "indexed", None) for ref in plan.retry}
    return {id_: row for id_, row in (ledger | done).items() if id_ not in plan.delete}


@given(REFS, LEDGERS)
def test_a_plan_that_was_done_leaves_an_empty_one(
    refs: list[Ref], ledger: dict[str, DocumentRow]
) -> None:
    plan = make_plan(Listing(refs), ledger)
    ledger = after(plan, ledger)
    assert {id_: row.version for id_, row in ledger.items()} == {r.id: r.version for r in refs}
    again = make_plan(Listing(refs), ledger)
    assert (again.upsert, again.retry, again.delete) == ([], [], [])
    assert again.source_digest == plan.source_digest


@given(REFS, LEDGERS)
def test_every_document_has_one_fate_and_every_difference_is_a_change(
    refs: list[Ref], ledger: dict[str, DocumentRow]
) -> None:
    plan = make_plan(Listing(refs), ledger)
    picked = [ref.id for ref in (*plan.upsert, *plan.retry)] + list(plan.delete)
    assert len(picked) == len(set(picked))
    assert set(plan.delete) == ledger.keys() - {ref.id for ref in refs}
    settled = {id_: r.version for id_, r in ledger.items() if r.state != "pending"}
    differing = {ref.id for ref in refs if settled.get(ref.id) != ref.version}
    assert plan.changes.keys() == differing | set(plan.delete)


@given(REFS)
def test_the_digest_does_not_depend_on_the_order_of_the_listing(refs: list[Ref]) -> None:
    assert source_digest(refs) == source_digest(refs[::-1])


def test_a_failed_document_that_did_not_change_is_a_retry_and_no_change() -> None:
    """Else a file that nobody mends would make the index stale, and sync it, for ever."""
    failed = {"d": DocumentRow("1", "", "failed", "garbled")}
    plan = make_plan(Listing([Ref("d", "1")]), failed)
    assert (plan.upsert, [ref.id for ref in plan.retry], plan.changes) == ([], ["d"], {})
    changed = make_plan(Listing([Ref("d", "2")]), failed)
    assert (list(changed.changes), changed.retry) == (["d"], [])


def test_a_listing_that_is_incomplete_or_names_a_document_twice_is_doubtful() -> None:
    with pytest.raises(DoubtfulListingError, match="page 3 timed out"):
        make_plan(Listing([Ref("a", "1")], incomplete="page 3 timed out"), {})
    with pytest.raises(DoubtfulListingError, match="twice: a"):
        make_plan(Listing([Ref("a", "1"), Ref("b", "1"), Ref("a", "2")]), {})


def a_plan(*, listed: int, deleted: int) -> Plan:
    return Plan(listed, "", [], [], [f"d{n}" for n in range(deleted)])


@given(
    indexed=st.integers(0, 1000),
    deleted=st.integers(0, 1000),
    new=st.integers(0, 3),
    share=st.floats(0, 1),
)
def test_only_a_mass_deletion_or_an_emptied_source_is_refused(
    indexed: int, deleted: int, new: int, share: float
) -> None:
    deleted = min(deleted, indexed)
    plan = a_plan(listed=indexed - deleted + new, deleted=deleted)
    mass = deleted >= MASS_DELETION_MIN and deleted > share * indexed
    emptied = deleted > 0 and plan.listed == 0
    if mass or emptied:
        with pytest.raises(DoubtfulListingError, match=f"{deleted} of {indexed}"):
            refuse_mass_deletion(plan, indexed=indexed, max_delete_share=share)
    else:
        refuse_mass_deletion(plan, indexed=indexed, max_delete_share=share)


def test_the_bounds_of_a_mass_deletion() -> None:
    refuse_mass_deletion(a_plan(listed=1, deleted=49), indexed=50, max_delete_share=0.2)
    refuse_mass_deletion(a_plan(listed=200, deleted=50), indexed=250, max_delete_share=0.2)
    for listed, deleted, indexed in ((199, 51, 250), (0, 1, 1), (0, 49, 49)):
        with pytest.raises(DoubtfulListingError):
            refuse_mass_deletion(
                a_plan(listed=listed, deleted=deleted), indexed=indexed, max_delete_share=0.2
            )
