"""Where text is cut: never beyond the embedder's limit, nothing lost, and edits stay local."""

import re
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from agent_pipelines.indexing.chunking import (
    Chunk,
    Chunker,
    ChunkerSpec,
    chunk_id,
    content_hash_of,
)
from agent_pipelines.indexing.ledger import ChunkRow
from agent_pipelines.indexing.sources import Document, DocumentError, Ref
from agent_pipelines.indexing.sync import document_write
from agent_pipelines.local.models import packaged_embedder

TOKENIZER = Tokenizer.from_file(str(packaged_embedder() / "tokenizer.json"))
TOKENIZER.no_truncation()
TOKENIZER.no_padding()
TOKENS = 32
CHUNKER = Chunker(ChunkerSpec(TOKENS, 0), TOKENIZER)

#: What extraction takes out of every text.
CONTROL = [chr(n) for n in range(32) if chr(n) not in "\n\t"]

#: Text as people write it, and as it should not be: headings, fences, lists, odd separators.
LINES = st.one_of(
    st.sampled_from(
        [
            "# Title",
            "## Part",
            "Setext",
            "===",
            "```",
            "- item",
            "> quote",
            "| a | b |",
            "",
            "    code",
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters=CONTROL), max_size=60),
    st.lists(
        st.sampled_from(["weaviate", "Überlänge", "日本語", "x" * 40, "🙂", "a.b"]), max_size=30
    ).map(" ".join),
)
TEXTS = st.lists(LINES, max_size=25).map("\n".join)
FORMATS = st.sampled_from(["markdown", "text"])


def cut(text: str, format_: str = "markdown", *, chunker: Chunker = CHUNKER) -> list[Chunk]:
    document = Document("d", "1", text, "title", "uri", format_)
    return chunker.chunks(document, index="i", fingerprint="f")


def without_space(text: str) -> str:
    return re.sub(r"\s+", "", text)


@settings(max_examples=150, deadline=None)
@given(TEXTS, FORMATS)
def test_nothing_is_lost_nothing_too_long_and_no_id_twice(text: str, format_: str) -> None:
    try:
        chunks = cut(text, format_)
    except DocumentError:
        assert not text.strip()
        return
    assert without_space("".join(chunk.text for chunk in chunks)) == without_space(text)
    for chunk in chunks:
        assert chunk.text.strip()
        # Special tokens included, as the model counts; one character is the least there can be.
        assert len(TOKENIZER.encode(chunk.text).ids) <= TOKENS or len(chunk.text) == 1
    assert len({chunk.id for chunk in chunks}) == len(chunks)
    assert [chunk.position for chunk in chunks] == list(range(len(chunks)))


@settings(max_examples=40, deadline=None)
@given(TEXTS, FORMATS)
def test_overlapping_chunks_are_within_the_limit_too(text: str, format_: str) -> None:
    assume(text.strip())
    for chunk in cut(text, format_, chunker=Chunker(ChunkerSpec(TOKENS, 8), TOKENIZER)):
        assert len(TOKENIZER.encode(chunk.text).ids) <= TOKENS or len(chunk.text) == 1


WORDS = st.lists(
    st.sampled_from(["alpha", "beta", "gamma", "delta", "line\u2028separator", "next\x85line"]),
    min_size=12,
    max_size=40,
).map(" ".join)
SECTIONS = st.lists(WORDS, min_size=2, max_size=6)


def markdown(sections: list[str]) -> str:
    return "".join(f"## Heading {n}\n\n{text}\n\n" for n, text in enumerate(sections))


@settings(max_examples=60, deadline=None)
@given(SECTIONS, WORDS, st.data())
def test_an_edit_keeps_the_ids_of_every_other_section(
    sections: list[str], text: str, data: st.DataObject
) -> None:
    """Each section is longer than the shortest that is joined to the next one."""
    where = data.draw(st.integers(0, len(sections) - 1))
    before = {chunk.id for chunk in cut(markdown(sections))}
    edited = [text if n == where else old for n, old in enumerate(sections)]
    after = {chunk.id for chunk in cut(markdown(edited))}
    alone = {chunk.content_hash for chunk in cut(f"## Heading {where}\n\n{sections[where]}\n\n")}
    gone = [chunk for chunk in cut(markdown(sections)) if chunk.id not in after]
    assert {chunk.content_hash for chunk in gone} <= alone
    assert len(before - after) <= len(alone)


@settings(max_examples=40, deadline=None)
@given(SECTIONS)
def test_a_section_put_in_front_moves_chunks_without_renaming_them(sections: list[str]) -> None:
    before = cut(markdown(sections))
    after = cut("## New\n\n" + "something else entirely " * 6 + "\n\n" + markdown(sections))
    assert {chunk.id for chunk in before} < {chunk.id for chunk in after}


def test_equal_text_twice_in_a_document_is_two_chunks() -> None:
    same = "## Same\n\n" + "the same words again " * 5 + "\n\n"
    first, second = cut(same + same)
    assert first.content_hash == second.content_hash
    assert first.id != second.id
    assert cut(same)[0].id == first.id


def test_the_key_of_an_id_is_delimited() -> None:
    assert chunk_id("12", "doc1", "h", 0, "f") != chunk_id("2", "doc11", "h", 0, "f")
    assert chunk_id("i", "12", "h", 0, "f") != chunk_id("i1", "2", "h", 0, "f")
    assert chunk_id('a", "b', "c", "h", 0, "f") != chunk_id("a", 'b", "c', "h", 0, "f")


@given(st.tuples(*[st.text(max_size=3)] * 3), st.tuples(*[st.text(max_size=3)] * 3))
def test_distinct_keys_have_distinct_ids_and_distinct_content_distinct_hashes(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    for make in (
        lambda a, b, c: chunk_id(a, b, c, 0, ""),
        lambda a, b, c: chunk_id("", a, b, 1, c),
        content_hash_of,
    ):
        assert (make(*one) == make(*other)) == (one == other)


def test_an_id_never_changes_between_versions_of_this_program() -> None:
    """Stored ids are compared with computed ones: a new formula would re-embed everything."""
    assert chunk_id("i", "d", "h", 0, "f") == "c29015dd-5844-59f9-ae09-0dc62c8870f8"


def test_a_document_without_text_is_a_named_failure() -> None:
    with pytest.raises(DocumentError, match="no text that could be cut"):
        cut(" \n\n ")


def chunk(name: str, position: int) -> Chunk:
    return Chunk(name, "d", position, f"hash of {name}", "", "", name)


STATES = st.sampled_from(["writing", "present", "retiring"])
NAMES = st.lists(st.sampled_from("abcdef"), unique=True)


@given(NAMES, st.lists(st.tuples(st.sampled_from("abcdef"), STATES), unique_by=lambda x: x[0]))
def test_a_write_ends_with_exactly_the_target_whatever_there_was(
    names: list[str], had: list[tuple[str, str]]
) -> None:
    """Rows in flight may or may not be in the store; the outcome must not depend on it."""
    target = [chunk(name, position) for position, name in enumerate(names)]
    rows = [ChunkRow(name, n, f"hash of {name}", state) for n, (name, state) in enumerate(had)]  # type: ignore[arg-type]
    write = document_write(Ref("d", "1"), target, rows)
    certain = {row.id: row.position for row in rows if row.state == "present"}
    possible = certain | {row.id: row.position for row in rows}
    for store in (certain, possible):
        result = store | {c.id: c.position for c in write.add} | dict(write.move)
        for id_ in write.retire:
            result.pop(id_, None)
        assert result == {c.id: c.position for c in target}
    assert not {c.id for c in write.add} & certain.keys(), "what is there is not written again"
    assert not set(write.retire) & {c.id for c in target}
    assert Counter(write.retire) == Counter(set(write.retire))
