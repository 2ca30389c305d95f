"""Files: everything is listed or it is said why not, and every change changes a version."""

import io
import os
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.sources import DocumentError, Source, SourceError
from agent_pipelines.indexing.sources.files import Files


def ids(source: Source) -> list[str]:
    return sorted(ref.id for ref in source.list())


def versions(source: Source) -> dict[str, str]:
    return {ref.id: ref.version for ref in source.list()}


def files(url: str, folder: Path = Path("/nowhere"), **more: Any) -> Source:
    return Files(kind="files", url=url, **more).open(folder)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    for name in ("top.md", "deep/er/low.md", "note.txt", "page.rst", "image.png", "drafts/a.md"):
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n\ntext of {name}")
    return tmp_path / "docs"


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield filesystem
    filesystem.store.clear()


def test_by_default_every_file_that_can_be_read_is_listed_at_every_depth(docs: Path) -> None:
    expected = ["deep/er/low.md", "drafts/a.md", "note.txt", "page.rst", "top.md"]
    assert ids(files(str(docs))) == expected


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (("**/*.md",), (), ["deep/er/low.md", "drafts/a.md", "top.md"]),
        (("*.md",), (), ["top.md"]),
        (("deep/**",), (), ["deep/er/low.md"]),
        (("**/*.md",), ("drafts/**", "top.*"), ["deep/er/low.md"]),
        (("**/*.md",), ("**/*.md",), []),
        ((), (), []),
    ],
)
def test_globs(
    docs: Path, include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]
) -> None:
    assert ids(files(str(docs), include=include, exclude=exclude)) == expected


@pytest.mark.parametrize("glob", ["**.md", "docs/**md"])
def test_a_glob_that_means_nothing_is_the_users_to_mend(docs: Path, glob: str) -> None:
    with pytest.raises(UserError, match=r"source\.exclude .* is no glob"):
        files(str(docs), exclude=(glob,))


def test_the_case_of_a_name_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "README.MD").write_text("# Read me")
    source = files(str(tmp_path))
    (ref,) = source.list()
    assert source.load(ref).format == "markdown"
    assert ids(files(str(tmp_path), exclude=("readme.*",))) == []


def test_a_relative_url_starts_at_the_folder_of_the_yaml(docs: Path) -> None:
    assert ids(files("../docs", docs.parent / "assets", include=("*.md",))) == ["top.md"]


def test_a_folder_of_many_files_is_never_held_in_memory(tmp_path: Path) -> None:
    for n in range(5_000):
        (tmp_path / f"{n}.md").touch()
    tracemalloc.start()
    count = sum(1 for _ in files(str(tmp_path)).list())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 5_000
    assert peak < 500_000  # what is known of them all takes fifteen times that


def test_ids_survive_moving_the_folder(docs: Path) -> None:
    before = ids(files(str(docs)))
    assert ids(files(str(docs.rename(docs.parent / "moved")))) == before


def test_a_missing_root_is_an_error_and_never_an_empty_listing(
    docs: Path, memory: MemoryFileSystem
) -> None:
    for url in (str(docs / "gone"), str(docs / "top.md"), "memory://gone"):
        with pytest.raises(SourceError, match="does not exist or is not a folder"):
            list(files(url).list())
        with pytest.raises(UserError, match=r"source\.url"):
            files(url).check()
    source = files(str(docs))
    docs.rename(docs.parent / "unmounted")
    with pytest.raises(SourceError):
        list(source.list())


def test_an_empty_folder_is_an_empty_listing(tmp_path: Path) -> None:
    source = files(str(tmp_path))
    source.check()
    assert ids(source) == []


@pytest.mark.parametrize("error", [PermissionError("denied"), FileNotFoundError("denied")])
def test_a_subfolder_that_cannot_be_listed_fails_the_listing(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """Backends pass over it in silence, and its documents would be deleted as gone."""
    memory.pipe("/docs/a.md", b"a")
    memory.pipe("/docs/locked/b.md", b"b")
    real = MemoryFileSystem.ls

    def ls(self: MemoryFileSystem, path: str, detail: bool = True, **more: Any) -> Any:
        if path.strip("/") == "docs/locked":
            raise error
        return real(self, path, detail=detail, **more)

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    with pytest.raises(SourceError, match="denied"):
        list(files("memory://docs").list())


def test_a_url_that_fsspec_cannot_open_is_the_users_to_mend() -> None:
    for url in ("nonsense://x", "s3a+b://x", "zip://x::nonsense://y"):
        with pytest.raises(UserError, match=r"source\.url"):
            files(url)


def test_a_touched_file_has_a_new_version_and_says_when(docs: Path) -> None:
    source = files(str(docs))
    before = versions(source)
    os.utime(docs / "top.md", (1_700_000_000, 1_700_000_000))
    (docs / "note.txt").write_text("longer than it was before this")
    after = versions(source)
    assert {id_ for id_ in before if before[id_] != after[id_]} == {"top.md", "note.txt"}
    (top,) = (ref for ref in source.list() if ref.id == "top.md")
    assert top.modified_at is not None
    assert top.modified_at.timestamp() == 1_700_000_000
    assert top.modified_at.tzinfo is not None


def test_an_edit_that_keeps_the_size_is_seen_where_there_is_no_mtime(
    memory: MemoryFileSystem,
) -> None:
    memory.pipe("/docs/a.md", b"one")
    before = versions(files("memory://docs"))
    assert versions(files("memory://docs")) == before
    memory.rm("/docs/a.md")
    memory.pipe("/docs/a.md", b"two")
    assert versions(files("memory://docs")) != before


def test_options_reach_the_file_system(docs: Path) -> None:
    """`dir` wraps another file system, and cannot be opened without being told which."""
    assert "top.md" in ids(files("dir://", options={"path": str(docs), "target_protocol": "file"}))
    with pytest.raises(UserError, match=r"source\.url 'dir://'"):
        files("dir://").check()


def zipped(path: Path, **texts: str) -> None:
    """Written anew and put in place, every member with the same date."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(f"docs/{name}.md", (2024, 1, 1, 0, 0, 0)), text)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data.getvalue())
    fresh.replace(path)


def test_a_zip_is_a_folder_and_a_new_zip_in_its_place_is_seen(tmp_path: Path) -> None:
    """The source lives as long as the process; an archive opened once would stay as it was."""
    path = tmp_path / "n.zip"
    zipped(path, a="# A\n\none", b="# B\n\nsame")
    source = files(f"zip://docs::{path}")
    source.check()
    before = versions(source)
    assert ids(source) == ["a.md", "b.md"]

    zipped(path, a="# A\n\ntwo", b="# B\n\nsame", c="# C\n\nnew")

    after = versions(source)
    assert {id_ for id_ in after if before.get(id_) != after[id_]} == {"a.md", "c.md"}
    by_id = {ref.id: ref for ref in source.list()}
    assert source.load(by_id["a.md"]).text == "# A\n\ntwo"


def test_a_file_in_a_zip_is_placed_in_its_archive(tmp_path: Path) -> None:
    zipped(tmp_path / "n.zip", a="# A")
    source = files("zip://docs::../n.zip", tmp_path / "assets")
    (ref,) = source.list()
    uri = source.load(ref).uri
    assert uri == f"zip://docs/a.md::file://{tmp_path}/n.zip"
    with fsspec.open(uri) as file:
        assert file.read() == b"# A"


def test_an_archive_is_not_opened_before_it_is_needed(tmp_path: Path) -> None:
    source = files(f"zip://docs::{tmp_path / 'late.zip'}")
    with pytest.raises(UserError, match=r"late\.zip"):
        source.check()
    with pytest.raises(SourceError, match=r"late\.zip"):
        list(source.list())
    zipped(tmp_path / "late.zip", a="# A")
    (ref,) = files(f"zip://docs::{tmp_path / 'late.zip'}").list()
    assert source.load(ref).text == "# A"


def test_what_a_url_keeps_secret_is_never_shown() -> None:
    source = files("zip://docs::http://me:hush@127.0.0.1:9/n.zip?signature=hush")
    with pytest.raises(SourceError, match=r"zip://docs::http://127\.0\.0\.1:9/n\.zip") as failure:
        list(source.list())
    assert "hush" not in str(failure.value)
    with pytest.raises(UserError) as error:
        source.check()
    assert "hush" not in str(error.value)


def test_a_loaded_file_has_its_title_format_and_place(docs: Path) -> None:
    source = files(str(docs))
    loaded = {ref.id: source.load(ref) for ref in source.list()}
    low = loaded["deep/er/low.md"]
    assert (low.title, low.format) == ("deep/er/low.md", "markdown")
    assert low.text == "# deep/er/low.md\n\ntext of deep/er/low.md"
    assert low.uri == f"file://{docs}/deep/er/low.md"
    assert loaded["note.txt"].format == "text"


def test_one_bad_file_is_that_documents_failure_alone(docs: Path) -> None:
    (docs / "empty.md").write_bytes(b"")
    (docs / "binary.md").write_bytes(bytes(range(256)) * 4)
    (docs / "dangling.md").symlink_to(docs / "nowhere.md")
    source = files(str(docs), include=("*.md",))
    refs = {ref.id: ref for ref in source.list()}
    for name in ("empty.md", "binary.md", "dangling.md"):
        with pytest.raises(DocumentError):
            source.load(refs[name])
    assert source.load(refs["top.md"]).text


def test_a_name_that_is_not_utf8_is_that_documents_failure_alone(docs: Path) -> None:
    """Such an id can neither be hashed nor stored; it must not stop the other documents."""
    name = os.fsencode(docs) + b"/caf\xe9.md"
    with open(name, "wb") as file:
        file.write(b"# Caf\n\ntext")
    source = files(str(docs), include=("*.md",))
    refs = {ref.id: ref for ref in source.list()}
    assert all(id_.encode() for id_ in refs)
    assert set(refs) == {"top.md", "caf\\udce9.md"}
    with pytest.raises(DocumentError, match="cannot be read"):
        source.load(refs["caf\\udce9.md"])
