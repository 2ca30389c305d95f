"""Any sequence of edits, renames, deletions, bad documents, spec changes, rollbacks, tampering and
crashes ends exact.
"""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine

from agent_pipelines.errors import UserError
from agent_pipelines.indexing import generations
from agent_pipelines.indexing import sync as sync_module
from agent_pipelines.indexing.chunking import ChunkerSpec
from agent_pipelines.indexing.live import CommitError, commit, rollback
from agent_pipelines.state.engine import open_engine
from resources.weaviate import WeaviateStore
from tests.engine import (
    Crash,
    MemorySource,
    TrippingStore,
    assert_exact,
    collection_of,
    failures,
    named_index,
    raw,
    run_sync,
    section,
    stored_in,
)

IDS = st.sampled_from(["a.md", "b.md", "dir/c.md", "ü d.md"])
TEXTS = st.lists(st.sampled_from(["one", "two", "three", "four"]), min_size=1, max_size=4).map(
    lambda names: "".join(section(name, words=60) for name in names)
)
METHODS = st.sampled_from(["write", "move", "delete", "count", "scan", "point_alias", "write_note"])


class LifeOfAnIndex(RuleBasedStateMachine):
    """One index; the model of what it should hold is the source itself."""

    store: WeaviateStore
    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.source = MemorySource({"a.md": section("one")})
        self.cleanup = ExitStack()
        self.index = self.cleanup.enter_context(named_index(self.store, self.engine, self.source))
        self.served: set[str] = set()
        """Documents that readers have; none may vanish unless the source deleted it."""
        self.tampered = False

    def teardown(self) -> None:
        self.cleanup.close()

    @rule(id_=IDS, text=TEXTS)
    def put(self, id_: str, text: str) -> None:
        self.source.texts[id_] = text

    @rule(id_=IDS)
    def break_document(self, id_: str) -> None:
        self.source.texts[id_] = None

    @rule(id_=IDS, other=IDS)
    def rename(self, id_: str, other: str) -> None:
        if id_ in self.source.texts:
            self.source.texts[other] = self.source.texts.pop(id_)

    @precondition(lambda self: len(self.source.texts) > 1)
    @rule(id_=IDS)
    def delete(self, id_: str) -> None:
        self.source.texts.pop(id_, None)

    @rule(tokens=st.sampled_from([96, 128]))
    def change_the_spec(self, tokens: int) -> None:
        self.index = replace(self.index, chunker=ChunkerSpec(tokens, 0))

    @precondition(lambda self: not self.tampered)
    @rule()
    def roll_back(self) -> None:
        with suppress(UserError, CommitError):  # nothing to return to, or it was left unfinished
            rollback(self.index)
            self.served = self.read()

    @precondition(lambda self: self.served)
    @rule(data=st.data())
    def lose_an_object(self, data: st.DataObject) -> None:
        generation = generations.under(self.engine, self.index.name, self.index.spec)
        victims = sorted(stored_in(self.index)) if generation else []
        if victims:
            victim = data.draw(st.sampled_from(victims))
            raw(self.store).collections.use(collection_of(self.index)).data.delete_by_id(victim)
            self.tampered = True

    @rule(method=METHODS, call=st.integers(1, 3), after=st.booleans())
    def crash(self, method: str, call: int, after: bool) -> None:
        def die() -> None:
            raise Crash

        store = TrippingStore(self.store, die, method, call, after)
        try:
            index = replace(self.index, store=store)  # type: ignore[arg-type]
            run_sync(index, accept_deletions=True)
            commit(index)
        except (Crash, CommitError, UserError):
            # It may have come as far as the alias: what is read now is what must stay.
            self.served = self.read() if not self.tampered else set()
        else:
            self.look()

    @rule(verify=st.booleans())
    def sync_and_commit(self, verify: bool) -> None:
        if generations.is_rejected(self.engine, self.index.name, self.index.spec):
            with pytest.raises(UserError, match="was rolled back"):
                run_sync(self.index, verify=verify)
            return
        report = run_sync(self.index, accept_deletions=True, verify=verify)
        broken = {id_ for id_, text in self.source.texts.items() if text is None}
        assert set(failures(self.index)) == broken
        assert report.failed == len(broken)
        nothing = report.listed > 0 and not stored_in(self.index)
        if nothing:
            with pytest.raises(CommitError):
                commit(self.index)
        else:
            snapshot = commit(self.index)
            assert snapshot.chunks == len(stored_in(self.index))
            assert self.store.alias_target(self.index.alias) == snapshot.collection
        if not report.failed:
            assert_exact(self.index, self.source)
        self.tampered = False
        self.look()

    def look(self) -> None:
        """The ledger and the store agree, whatever is in them."""
        stored = stored_in(self.index)
        ledger = self.index.ledger(collection_of(self.index))
        entries = ledger.entries(list(ledger.present_ids()))
        assert {id_: s.chunk.position for id_, s in stored.items()} == {
            id_: entry.position for id_, entry in entries.items()
        }
        here = {s.chunk.document_id for s in stored.values()}
        assert here <= set(self.source.texts)
        readable = {id_ for id_, text in self.source.texts.items() if text is not None}
        assert readable <= here
        self.served = self.read()

    def read(self) -> set[str]:
        """The documents that readers have."""
        served = self.store.alias_target(self.index.alias)
        if served is None:
            return set()
        return {s.chunk.document_id for s in stored_in(self.index, served).values()}

    @invariant()
    def no_document_is_without_chunks(self) -> None:
        """Never a gap: what readers had and is still listed they have, crash or not."""
        if self.tampered or not self.served:
            return
        assert self.served & set(self.source.texts) <= self.read()


@pytest.fixture
def machine(
    store: WeaviateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type]:
    monkeypatch.setattr(sync_module, "BATCH_CHUNKS", 2)
    LifeOfAnIndex.store = store
    LifeOfAnIndex.engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    yield LifeOfAnIndex
    LifeOfAnIndex.engine.dispose()


@pytest.mark.parametrize(
    ("lives", "steps"), [(12, 12), pytest.param(150, 25, marks=pytest.mark.slow)]
)
@pytest.mark.timeout(3600)
def test_any_life_of_an_index_ends_exact(
    machine: type[LifeOfAnIndex], lives: int, steps: int
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=lives,
            stateful_step_count=steps,
            suppress_health_check=list(HealthCheck),
        ),
    )
