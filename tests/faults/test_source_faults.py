"""A folder of documents that is taken away under a running system: what is seen, and what stays.

Nothing may be deleted for it, readers get what they had, and once the folder is back all is true.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent_pipelines.health.signal import State
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import commit
from agent_pipelines.indexing.sources import Document, Ref
from agent_pipelines.indexing.sources.files import Files
from agent_pipelines.indexing.sync import SyncError
from agent_pipelines.state.engine import open_engine
from resources.weaviate import WeaviateStore
from tests.engine import (
    assert_exact,
    assert_healthy,
    document,
    failures,
    named_index,
    run_sync,
    states,
    stored_in,
)

#: Nobody's, on Linux.
_NOBODY = 65_534


class Folder:
    """A folder as a source, read with no more rights than its owner gives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = Files(kind="files", url=str(path)).open(path)

    @property
    def texts(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in self.path.iterdir()}

    def check(self) -> None:
        self._files.check()

    def list(self) -> Iterator[Ref]:
        with unprivileged():
            listed = list(self._files.list())
        yield from listed

    def load(self, ref: Ref) -> Document:
        with unprivileged():
            return self._files.load(ref)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As nobody where this is root, whom no mode of a file keeps out; this thread alone."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None)
    libc.setfsuid(_NOBODY)
    try:
        yield
    finally:
        libc.setfsuid(0)


@dataclass
class System:
    """A healthy index over a folder."""

    index: Index
    folder: Path
    source: Folder

    def false(self) -> set[str]:
        return {name for name, state in states(self.index).items() if state is State.FALSE}

    def unsure(self) -> set[str]:
        return {name for name, state in states(self.index).items() if state is State.CANNOT_TELL}

    def is_exact(self) -> None:
        run_sync(self.index)
        commit(self.index)
        assert_exact(self.index, self.source)  # type: ignore[arg-type]
        assert_healthy(self.index)


@pytest.fixture
def system(store: WeaviateStore, tmp_path: Path) -> Iterator[System]:
    # Not below tmp_path, where nobody but its owner may go.
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent, "documents")
        folder.mkdir()
        for number in range(4):
            (folder / f"d{number}.md").write_text(document(f"Doc{number}", "one", "two"))
        source = Folder(folder)
        engine = open_engine(f"sqlite:///{tmp_path / 'state.db'}")
        with named_index(store, engine, source) as index:
            made = System(index, folder, source)
            made.is_exact()
            try:
                yield made
            finally:
                folder.chmod(0o755)


@contextmanager
def empty_mount(folder: Path) -> Iterator[None]:
    """An empty file system over a folder: as a disk that did not come up leaves its mount point."""
    mounted = sys.platform == "linux" and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True
    )
    if not mounted or mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted and mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_an_empty_mount_over_the_folder(system: System) -> None:
    before = stored_in(system.index).keys()
    with empty_mount(system.folder):
        assert system.false() == {"listing_trusted"}
        assert system.unsure() == set()
        with pytest.raises(SyncError, match="Nothing was deleted"):
            run_sync(system.index)
        assert stored_in(system.index).keys() == before
        assert system.false() == {"listing_trusted"}
    assert_healthy(system.index)
    system.is_exact()


def test_a_folder_that_may_not_be_read_any_more(system: System) -> None:
    before = stored_in(system.index).keys()
    system.folder.chmod(0)
    assert system.false() == set()
    assert system.unsure() == {"fresh", "listing_trusted"}
    with pytest.raises(SyncError, match=r"cannot be listed: .*Permission"):
        run_sync(system.index)
    assert stored_in(system.index).keys() == before
    system.folder.chmod(0o755)
    assert_healthy(system.index)
    system.is_exact()


def test_a_file_that_may_not_be_read_any_more(system: System) -> None:
    """It fails alone, and what was indexed of it stays."""
    before = stored_in(system.index).keys()
    (system.folder / "d1.md").write_text(document("Doc1", "one", "another"))
    (system.folder / "d1.md").chmod(0)
    run_sync(system.index)
    commit(system.index)
    assert system.false() == {"documents_indexed"}
    assert "Permission" in failures(system.index)["d1.md"]
    assert stored_in(system.index).keys() == before
    (system.folder / "d1.md").chmod(0o644)
    system.is_exact()
