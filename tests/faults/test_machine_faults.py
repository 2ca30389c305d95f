"""What the machine under the system does to it: disks fill, sockets close, the clock jumps.

Whatever it is, a sync fails loudly or comes through, nothing reads as fine that is not, and the
next sync after it is exact.
"""

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from agent_pipelines.errors import UnavailableError
from agent_pipelines.health import machinery
from agent_pipelines.health.evaluate import look
from agent_pipelines.health.machine import Machinery, Memory
from agent_pipelines.health.signal import Reading, State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import commit
from agent_pipelines.indexing.store import StoreError
from agent_pipelines.indexing.sync import SyncError
from agent_pipelines.local import weaviate
from agent_pipelines.local.models import packaged_embedder
from agent_pipelines.local.parts import Parts, find
from agent_pipelines.settings import Settings
from agent_pipelines.state.engine import open_engine
from resources.embedders.model import find as find_model
from resources.weaviate import WeaviateStore
from tests.clock import pass_time
from tests.engine import (
    HashEmbedder,
    MemorySource,
    assert_exact,
    assert_healthy,
    collection_of,
    document,
    make_index,
    named_index,
    raw,
    run_sync,
    stored_in,
)
from tests.processes import until
from tests.proxy import Proxy

#: Of a tmpfs, all of whose bytes are memory.
_SMALL = 48 * 2**20


@dataclass(frozen=True)
class SmallDisk:
    """A file system that a test can fill."""

    folder: Path

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Until not a byte more is taken."""
        with self._ballast.open("wb", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def empty(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = sys.platform == "linux" and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_SMALL}", "tmpfs", folder],
        capture_output=True,
        text=True,
    )
    if not mounted or mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted and mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def texts() -> dict[str, str | None]:
    return {f"d{n}.md": document(f"Doc{n}", "one", "two") for n in range(4)}


def synced(index: Index) -> None:
    run_sync(index)
    commit(index)


def readings_of(index: Index) -> dict[str, Reading]:
    with View(index, committed=True) as view:
        return {signal.name: reading for signal, reading in look(view, catalogue()).items()}


def in_state(readings: dict[str, Reading], state: State) -> set[str]:
    return {name for name, reading in readings.items() if reading.state is state}


def machinery_of(index: Index, state_dir: Path, memory: Memory | None = None) -> dict[str, Reading]:
    with Machinery(
        state_dir=state_dir,
        state=lambda: index.engine,
        orchestrator=None,
        broken={},
        memory=memory,
    ) as view:
        return {
            signal.name: reading for signal, reading in look(view, machinery.catalogue()).items()
        }


def assert_exact_again(index: Index, source: MemorySource) -> None:
    synced(index)
    assert_exact(index, source)
    assert_healthy(index)


def test_the_disk_of_the_state_database_fills(store: WeaviateStore, small_disk: SmallDisk) -> None:
    source = MemorySource(texts())
    engine = open_engine(f"sqlite:///{small_disk.folder / 'state.db'}")
    with named_index(store, engine, source) as index:
        assert_exact_again(index, source)
        # A disk this small never has the room that is asked for; but a file it does take.
        assert "MiB free" in machinery_of(index, small_disk.folder)["disk_writable"].observed

        small_disk.fill()
        said = machinery_of(index, small_disk.folder)
        assert in_state(said, State.FALSE) == {"disk_writable", "state_database_writable"}
        assert "No space left" in said["disk_writable"].observed
        found = readings_of(index)
        assert in_state(found, State.FALSE) == set()
        assert found["fresh"].state is State.CANNOT_TELL
        source.texts["d1.md"] = document("Doc1", "one", "another")
        with pytest.raises((SyncError, UnavailableError), match="full"):
            synced(index)

        small_disk.empty()
        assert_exact_again(index, source)
        said = machinery_of(index, small_disk.folder)
        assert in_state(said, State.FALSE) == {"disk_writable"}


@dataclass
class Weaviate:
    """One of its own, that a test can end and start again."""

    state_dir: Path
    parts: Parts

    def start(self) -> dict[str, str]:
        binary = weaviate.obtain(Settings().cache_dir, print)
        key = weaviate.api_key(self.state_dir)
        at = self.parts.ensure("weaviate", lambda: weaviate.launch(binary, self.state_dir, key))
        return {**at, "api_key": key}

    def kill(self) -> None:
        part = find(self.state_dir, "weaviate")
        assert part is not None
        process = psutil.Process(part.child)
        process.kill()
        psutil.wait_procs([process], timeout=30)


def test_the_disk_of_weaviate_fills(small_disk: SmallDisk, tmp_path: Path) -> None:
    source = MemorySource(texts())
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with (
        Parts(small_disk.folder) as parts,
        WeaviateStore(**Weaviate(small_disk.folder, parts).start()) as store,
        named_index(store, engine, source) as index,
    ):
        assert_exact_again(index, source)
        before = stored_in(index).keys()

        small_disk.fill()
        until(
            lambda: readings_of(index)["store_writable"].state is State.FALSE, 30, "that it is full"
        )
        assert in_state(readings_of(index), State.FALSE) == {"store_writable"}
        source.texts["d1.md"] = document("Doc1", "one", "another")
        with pytest.raises((SyncError, UnavailableError)):
            synced(index)
        assert stored_in(index).keys() >= before, "what readers had is there"

        small_disk.empty()
        # What its runbook asks for.
        for collection in store.collections():
            config = raw(store).collections.use(collection).config
            config.update_shards("READY", [shard.name for shard in config.get_shards()])
        assert_exact_again(index, source)


def many(seed: int) -> dict[str, str | None]:
    """Documents whose chunks are several requests."""
    chance = random.Random(seed)
    return {
        f"d{n}.md": document(f"Doc{n}", *(f"s{chance.randrange(10**6)}" for _ in range(12)))
        for n in range(60)
    }


def test_a_batch_of_which_one_object_is_refused(store: WeaviateStore, tmp_path: Path) -> None:
    """Weaviate's client says that in its answer, and raises nothing."""
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with named_index(store, engine, MemorySource(texts())) as index:
        synced(index)
        chunks = [stored.chunk for stored in stored_in(index).values()][:3]
        vectors: Any = [np.ones(n, np.float32) for n in (8, 7, 8)]
        with pytest.raises(StoreError, match="1 of 3 chunks were not stored"):
            store.write(collection_of(index), chunks, vectors, index.spec.fingerprint)


@pytest.mark.slow
def test_more_deletions_than_weaviate_makes_at_once(store: WeaviateStore, tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with named_index(store, engine, MemorySource(texts())) as index:
        synced(index)
        (chunk, *_), collection = [s.chunk for s in stored_in(index).values()], collection_of(index)
        before = store.count(collection)
        many = [replace(chunk, id=str(uuid4())) for _ in range(10_500)]
        store.write(collection, many, np.eye(8, dtype=np.float32)[[0] * 10_500], "any")
        store.delete(collection, [one.id for one in many])
        assert store.count(collection) == before


def test_sockets_that_close_once_within_a_batch(
    weaviate_url: dict[str, str], store: WeaviateStore, tmp_path: Path
) -> None:
    source = MemorySource(many(1))
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with (
        Proxy(weaviate_url["grpc"]) as proxy,
        WeaviateStore(**{**weaviate_url, "grpc": proxy.address}) as through,
        named_index(store, engine, source) as index,
    ):
        proxy.cut_after(200_000)
        synced(replace(index, store=through))
        assert proxy.cuts == 1
        assert_exact(index, source)
        assert_healthy(index)


def test_sockets_that_close_within_every_batch(
    weaviate_url: dict[str, str], store: WeaviateStore, tmp_path: Path
) -> None:
    source = MemorySource(many(2))
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with (
        Proxy(weaviate_url["grpc"]) as proxy,
        WeaviateStore(**{**weaviate_url, "grpc": proxy.address}) as through,
        named_index(store, engine, source) as index,
    ):
        cut_off = replace(index, store=through)
        synced(cut_off)
        before = stored_in(index).keys()
        source.texts = many(3)
        proxy.cut_after(100_000, again=True)
        with pytest.raises(UnavailableError, match="does not answer"):
            run_sync(cut_off)
        assert proxy.cuts >= 2
        assert stored_in(index).keys() >= before, "readers miss nothing"
        assert in_state(readings_of(index), State.FALSE) == set()

        proxy.mend()
        assert_exact_again(cut_off, source)


def test_a_tokenizer_that_is_altered_on_disk_is_another_model(
    store: WeaviateStore, tmp_path: Path
) -> None:
    """The weights are what they were, and every text is read otherwise."""
    folder = tmp_path / "model"
    shutil.copytree(packaged_embedder(), folder)

    def embedder() -> HashEmbedder:
        """Its vectors, with the identity of what lies in the folder."""
        made = HashEmbedder()
        digest = find_model(str(folder), weights=True).digest
        made.identity = replace(made.identity, digest=digest)
        return made

    source = MemorySource(texts())
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with named_index(store, engine, source, embedder=embedder()) as index:
        assert_exact_again(index, source)
        tokenizer = folder / "tokenizer.json"
        tokenizer.write_text(tokenizer.read_text().replace('"lowercase":true', '"lowercase":false'))
        index = replace(index, embedder=embedder())
        assert "spec_is_current" in in_state(readings_of(index), State.FALSE)
        assert_exact_again(index, source)


def test_a_clock_that_goes_back(store: WeaviateStore, tmp_path: Path) -> None:
    """All that was recorded is an hour ahead: the same, to whoever looks at it now."""
    source = MemorySource(texts())
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    with named_index(store, engine, source) as index:
        assert_exact_again(index, source)
        memory = Memory()
        assert in_state(machinery_of(index, tmp_path, memory), State.FALSE) == set()
        source.texts["d1.md"] = document("Doc1", "one", "another")
        assert in_state(readings_of(index), State.FALSE) == set()

        pass_time(engine, -timedelta(hours=1))
        assert in_state(machinery_of(index, tmp_path, memory), State.FALSE) == {"clock_forward"}
        assert in_state(readings_of(index), State.FALSE) == set()
        # Work goes on, and nothing that is older than it is goes unseen.
        late = replace(index, max_staleness_seconds=0.0)
        readings_of(late)
        assert in_state(readings_of(late), State.FALSE) == {"fresh"}
        assert_exact_again(index, source)


@pytest.mark.slow
def test_the_files_of_an_older_weaviate_are_put_back(tmp_path: Path) -> None:
    """A backup as an administrator makes one: the folder, copied while nobody uses it."""
    source = MemorySource(texts())
    engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
    place = tmp_path / "server"
    place.mkdir()
    with Parts(place) as parts:
        server = Weaviate(place, parts)
        with WeaviateStore(**server.start()) as store:
            index = make_index("docs", source, store, engine)
            assert_exact_again(index, source)
        server.kill()
        shutil.copytree(place / "weaviate", tmp_path / "backup")
        with WeaviateStore(**server.start()) as store:
            index = replace(index, store=store)
            source.texts["d1.md"] = document("Doc1", "one", "another")
            assert_exact_again(index, source)
        server.kill()
        shutil.rmtree(place / "weaviate")
        (tmp_path / "backup").rename(place / "weaviate")
        with WeaviateStore(**server.start()) as store:
            index = replace(index, store=store)
            false = in_state(readings_of(index), State.FALSE)
            assert false - {"known_items_found"} == {
                *("snapshot_in_store", "ids_match"),
                *("deleted_items_gone", "deleted_items_not_served"),
            }
            assert_exact_again(index, source)
