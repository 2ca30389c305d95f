"""Distributions: the description of each installed package is a document."""

from pathlib import Path

import pytest

from agent_pipelines.indexing.sources import DocumentError, Source
from agent_pipelines.indexing.sources.distributions import DistributionsSource


def versions(source: Source) -> dict[str, str]:
    return {ref.id: ref.version for ref in source.list()}


def distribution(
    folder: Path, name: str, body: str | bytes = "# Readme\n\ntext", headers: str = ""
) -> Path:
    metadata = folder / f"{name}-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{headers}\n"
    data = body if isinstance(body, bytes) else body.encode()
    metadata.write_bytes(head.encode() + data)
    return metadata


MARKDOWN = "Description-Content-Type: text/markdown\n"


def test_distributions_with_a_description_are_documents(tmp_path: Path) -> None:
    distribution(tmp_path, "Some_Pkg", headers=MARKDOWN)
    distribution(tmp_path, "silent", body="")
    distribution(tmp_path, "old", body="", headers="Description: in a header\n")
    source = DistributionsSource([tmp_path, tmp_path / "missing"])
    refs = {ref.id: ref for ref in source.list()}
    assert set(refs) == {"some-pkg", "old"}
    loaded = source.load(refs["some-pkg"])
    assert (loaded.title, loaded.format, loaded.text) == (
        "Some_Pkg",
        "markdown",
        "# Readme\n\ntext",
    )
    assert source.load(refs["old"]).text == "in a header"
    assert all(ref.modified_at and ref.modified_at.tzinfo for ref in refs.values())


def test_an_upgraded_distribution_is_a_change_that_keeps_its_id(tmp_path: Path) -> None:
    distribution(tmp_path, "pkg", body="one")
    source = DistributionsSource([tmp_path])
    before = versions(source)
    distribution(tmp_path, "pkg", body="two")
    after = versions(source)
    assert before.keys() == after.keys() == {"pkg"}
    assert before != after


def test_the_first_of_two_on_the_path_wins_in_the_listing_and_in_the_loading(
    tmp_path: Path,
) -> None:
    """Even where only the second has a description: it is not the one that is imported."""
    distribution(tmp_path / "1", "pkg", body="")
    distribution(tmp_path / "2", "pkg", body="shadowed")
    distribution(tmp_path / "1", "both", body="first")
    distribution(tmp_path / "2", "both", body="second")
    source = DistributionsSource([tmp_path / "1", tmp_path / "2"])
    (ref,) = source.list()
    assert source.load(ref).text == "first"


def test_odd_metadata_is_read_or_fails_as_that_document_alone(tmp_path: Path) -> None:
    crlf = distribution(tmp_path, "crlf")
    crlf.write_bytes(crlf.read_bytes().replace(b"\n", b"\r\n"))
    distribution(tmp_path, "latin", body="Größe und Straße, überall Änderungen".encode("latin-1"))
    nameless = distribution(tmp_path, "nameless")
    nameless.write_bytes(b"Metadata-Version: 2.1\n\ntext")
    gone = distribution(tmp_path, "gone")
    source = DistributionsSource([tmp_path])
    refs = {ref.id: ref for ref in source.list()}
    assert set(refs) == {"crlf", "latin", "nameless", "gone"}
    assert source.load(refs["crlf"]).text == "# Readme\n\ntext"
    assert "Straße" in source.load(refs["latin"]).text
    assert source.load(refs["nameless"]).title == "nameless"
    gone.unlink()
    with pytest.raises(DocumentError, match="uninstalled"):
        source.load(refs["gone"])
