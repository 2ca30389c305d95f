"""A healthy index under constant work: however often it is looked at, no signal is ever false."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path

import pytest

from agent_pipelines.health.evaluate import look, tick
from agent_pipelines.health.signal import State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from agent_pipelines.indexing.chunking import ChunkerSpec
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import commit
from agent_pipelines.indexing.sources.files import Files
from agent_pipelines.state import leases
from agent_pipelines.state.engine import open_engine
from resources.weaviate import WeaviateResource, WeaviateStore
from tests.engine import document, named_index, run_sync

#: One look in so many is an audit; a rebuild comes after so many syncs.
_AUDIT_EVERY, _REBUILD_EVERY = 20, 7


class Busy:
    """An index whose documents and spec change all the time, and which is synced all the time."""

    def __init__(self, index: Index, folder: Path) -> None:
        self.index = index
        """As it is configured, and who syncs has noticed."""
        self.syncs = 0
        self.rebuilt = False
        self._folder = folder
        self._random = random.Random(1)
        self._over = threading.Event()
        self._failures: list[BaseException] = []

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Edit in one thread and sync in another, until the block is left."""
        threads = [
            threading.Thread(target=self._until_over, args=(work,))
            for work in (self._edit, self._sync)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        assert not self._failures, self._failures

    def _until_over(self, work: Callable[[], None]) -> None:
        try:
            while not self._over.is_set():
                work()
        except BaseException as error:
            self._failures.append(error)
            self._over.set()

    def _edit(self) -> None:
        """Write, rename or delete one document, as a person does: whole files, one at a time."""
        number = self._random.randrange(12)
        path = self._folder / f"d{number}.md"
        if path.exists() and self._random.random() < 0.2 and len(list(self._folder.iterdir())) > 6:
            path.unlink()
        else:
            words = [f"w{self._random.randrange(30)}" for _ in range(3)]
            fresh = self._folder.parent / path.name
            fresh.write_text(document(f"Doc{number}", *words))
            fresh.replace(path)
        self._over.wait(0.05)

    def _sync(self) -> None:
        self.syncs += 1
        if self.syncs % _REBUILD_EVERY:
            run_sync(self.index, accept_deletions=True)
        else:
            self._rebuild()
        commit(self.index)
        self.rebuilt = self.syncs >= _REBUILD_EVERY

    def _rebuild(self) -> None:
        """A sync under another spec, which is configured as far as others see once it has begun."""
        tokens = 96 if self.index.chunker.tokens == 128 else 128
        rebuilt = replace(self.index, chunker=ChunkerSpec(tokens, 0))
        with ThreadPoolExecutor(1) as beside:
            done = beside.submit(run_sync, rebuilt, accept_deletions=True)
            while not (done.done() or leases.is_held(rebuilt.engine, f"index {rebuilt.name}")):
                self._over.wait(0.005)
            self.index = rebuilt
            done.result()


@pytest.mark.parametrize("looks", [60, pytest.param(1_000, marks=pytest.mark.slow)])
def test_no_signal_of_a_busy_index_is_ever_false(
    looks: int, store: WeaviateStore, weaviate_resource: WeaviateResource, tmp_path: Path
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(10):
        (folder / f"d{number}.md").write_text(document(f"Doc{number}", "one", "two"))
    source = Files(kind="files", url=str(folder)).open(tmp_path)
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with named_index(store, engine, source) as index:
        run_sync(index)
        commit(index)
        busy = Busy(index, folder)
        seen: Counter[State] = Counter()
        with busy.at_work(), weaviate_resource.connect() as watching:
            # On a slow machine longer, until there was a rebuild.
            for number in takewhile(lambda n: n < looks or not busy.rebuilt, count()):
                signals = catalogue() if number % _AUDIT_EVERY == 0 else tick()
                with View(replace(busy.index, store=watching), committed=True) as view:
                    readings = look(view, signals)
                false = {
                    signal.name: reading.observed
                    for signal, reading in readings.items()
                    if reading.state is State.FALSE
                }
                assert not false, f"look {number}, sync {busy.syncs}"
                seen.update(reading.state for reading in readings.values())
    assert seen[State.TRUE] > seen[State.CANNOT_TELL], "it could mostly be told"
