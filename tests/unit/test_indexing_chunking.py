"""Where text is cut: never beyond the embedder's limit, nothing lost, and edits stay local."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from statistics import mean

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from agent_pipelines.indexing.chunking import (
    Chunk,
    Chunker,
    ChunkerSpec,
    chunk_id,
    content_hash_of,
    counting,
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
        st.sampled_from(["weaviate", "Überlänge", "日本語", "x" * 40, "y" * 400, "🙂", "a.b"]),
        max_size=30,
    ).map(" ".join),
)
TEXTS = st.lists(LINES, max_size=25).map("\n".join)
FORMATS = st.sampled_from(["markdown", "text"])


def cut(text: str, format_: str = "markdown", *, chunker: Chunker = CHUNKER) -> list[Chunk]:
    document = Document("d", "1", text, "title", "uri", format_)
    return chunker.chunks(document, index="i", fingerprint="f")


def without_space(text: str) -> str:
    return re.sub(r"\s+", "", text)


@settings(max_examples=150)
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


@settings(max_examples=40)
@given(TEXTS, FORMATS)
def test_overlapping_chunks_are_within_the_limit_too(text: str, format_: str) -> None:
    assume(text.strip())
    for chunk in cut(text, format_, chunker=Chunker(ChunkerSpec(TOKENS, 8), TOKENIZER)):
        assert len(TOKENIZER.encode(chunk.text).ids) <= TOKENS or len(chunk.text) == 1


def test_an_overlapping_chunk_starts_with_the_last_words_before_it_but_not_across_headings() -> (
    None
):
    numbers = " ".join(str(n) for n in range(100))
    overlapping = Chunker(ChunkerSpec(TOKENS, 8), TOKENIZER)
    first, second, *_ = cut(f"{numbers}\n\n# Next\n\n{numbers}", chunker=overlapping)
    assert second.text.startswith(" ".join(first.text.split()[-8:]))
    (heading,) = (
        chunk
        for chunk in cut(f"{numbers}\n\n# Next\n\n{numbers}", chunker=overlapping)
        if "# Next" in chunk.text
    )
    assert heading.text.startswith("# Next")


def byte_level() -> Tokenizer:
    """As GPT's and Qwen's: what a word takes depends on the space beside it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["weaviate item Title Part Setext quote a b code\n\n"], trainer)
    return tokenizer


def unigram() -> Tokenizer:
    """As XLM-R's: the words of a line are read together."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)  # type: ignore[assignment]
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(["weaviate item Title Part Setext quote a b code"], trainer)
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, unigram])
@settings(max_examples=60)
@given(TEXTS, FORMATS)
def test_nothing_is_lost_or_too_long_for_other_kinds_of_tokenizers(
    make: Callable[[], Tokenizer], text: str, format_: str
) -> None:
    assume(text.strip())
    tokenizer = make()
    chunks = cut(text, format_, chunker=Chunker(ChunkerSpec(TOKENS, 0), tokenizer))
    assert without_space("".join(chunk.text for chunk in chunks)) == without_space(text)
    for chunk in chunks:
        assert len(tokenizer.encode(chunk.text).ids) <= TOKENS or len(chunk.text) == 1


def test_words_that_the_tokenizer_reads_as_one_unknown_token_are_cut_as_if_it_read_them() -> None:
    """BERT's reads a word of more than 100 characters as [UNK]; a chunk of any length would fit."""
    blob = "".join(f"{n:x}" for n in range(2000))
    assert len(TOKENIZER.encode(blob, add_special_tokens=False)) == 1
    chunks = cut(f"before\n\n{blob}\n\nafter")
    assert "".join(chunk.text for chunk in chunks).replace("\n", "") == f"before{blob}after"
    assert max(len(chunk.text) for chunk in chunks) < 16 * TOKENS
    assert [chunk.text for chunk in cut(blob[:110])] == [blob[:110]]


@pytest.mark.parametrize(
    "block",
    [
        "```python\nif x:\n\n    # no heading\n    return 1\n```",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |",
        "- an item of a list\n  in two lines",
        "one sentence. another sentence. a third one",
        "> a quote\n> of two lines",
    ],
)
@settings(max_examples=20)
@given(before=st.integers(0, 60), after=st.integers(0, 60))
def test_a_block_that_fits_into_a_chunk_is_never_cut(block: str, before: int, after: int) -> None:
    text = f"{'word ' * before}\n\n{block}\n\n{'word ' * after}"
    assert any(block in chunk.text for chunk in cut(text))


ANNOUNCEMENTS = st.sampled_from(["# Title\n\n## Part\n\n", "# Title\n\n", "Term\n\n", ""])


@settings(max_examples=60)
@given(st.lists(st.tuples(ANNOUNCEMENTS, st.integers(1, 40)), min_size=1))
def test_a_title_or_a_term_stays_with_what_follows_it(parts: list[tuple[str, int]]) -> None:
    for chunk in cut("\n\n".join(f"{above}{'A sentence. ' * words}" for above, words in parts)):
        assert chunk.text.splitlines()[-1] not in ("# Title", "## Part", "Term")


def test_a_heading_starts_a_chunk_unless_its_section_is_short() -> None:
    section = "some words that are enough for a section."
    text = f"# Title\n\n## One\n\n{section}\n\n## Short\n\nx\n\n## Two\n\n{section}\n"
    assert [chunk.text.startswith("#") for chunk in cut(text)] == [True, True]
    plain = f"ONE\n===\n{section} {section}\n\nTWO\n---\n\n{section}"
    assert [chunk.text.split()[0] for chunk in cut(plain, "text")] == ["ONE", "TWO"]


WORDS = st.lists(
    st.sampled_from(["alpha", "beta", "gamma", "delta", "line\u2028separator", "next\x85line"]),
    min_size=12,
    max_size=40,
).map(" ".join)
SECTIONS = st.lists(WORDS, min_size=2, max_size=6)


def markdown(sections: list[str]) -> str:
    return "".join(f"## Heading {n}\n\n{text}\n\n" for n, text in enumerate(sections))


@settings(max_examples=60)
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


@settings(max_examples=40)
@given(SECTIONS)
def test_a_section_put_in_front_moves_chunks_without_renaming_them(sections: list[str]) -> None:
    before = cut(markdown(sections))
    after = cut("## New\n\n" + "something else entirely " * 6 + "\n\n" + markdown(sections))
    assert {chunk.id for chunk in before} < {chunk.id for chunk in after}


def paragraph(random: Random) -> str:
    """Prose mostly, of one to six sentences; some headings, lists and code."""
    words = [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "eta",
        "theta",
        "iota",
        "kappa",
        "lambda",
    ]
    sentences = [
        " ".join(random.choices(words, k=random.randint(1, 12))) + "."
        for _ in range(random.randint(1, 6))
    ]
    prose = " ".join(sentences)
    listed = "- " + "\n- ".join(sentences)
    code = "```\n" + "\n".join(sentences) + "\n```"
    return random.choice([prose] * 6 + [f"## {sentences[0]}", listed, code])


def edits(random: Random, length: int) -> Iterator[tuple[str, str, str]]:
    """A text, the same with one paragraph put in, replaced or gone, and that paragraph."""
    text, new = [paragraph(random) for _ in range(length)], paragraph(random)
    where = random.randrange(length)
    for after in ([new, text[where]], [new], []):
        edited = [*text[:where], *after, *text[where + 1 :], "The end."]
        yield "\n\n".join([*text, "The end."]), "\n\n".join(edited), new


def moved(before: list[Chunk], after: list[Chunk]) -> int:
    hashes = [Counter(chunk.content_hash for chunk in chunks) for chunks in (before, after)]
    return (hashes[1] - hashes[0]).total()


@settings(max_examples=150)
@given(st.integers(0), FORMATS, st.integers(1, 200))
def test_an_edit_moves_a_few_chunks_wherever_it_is_and_however_long_the_text(
    seed: int, format_: str, length: int
) -> None:
    """Three groups of three at most: that of the edit, and one that it shifts on either side."""
    for before, after, new in edits(Random(seed), length):
        assert moved(cut(before, format_), cut(after, format_)) <= 9 + len(cut(new, format_))


def test_on_average_an_edit_moves_two_chunks_and_chunks_are_two_thirds_full() -> None:
    chunker = Chunker(ChunkerSpec(100, 0), TOKENIZER)
    moves, sizes = [], []
    for seed in range(60):
        for before, after, _ in edits(Random(seed), 100):
            chunks = cut(before, chunker=chunker)
            moves.append(moved(chunks, cut(after, chunker=chunker)))
            sizes += [len(TOKENIZER.encode(chunk.text).ids) for chunk in chunks]
    assert mean(moves) < 2.5
    assert mean(sizes) > 0.65 * 100


def test_equal_text_is_cut_equally_whatever_was_cut_and_forgotten_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = ["\n\n".join(paragraph(Random(seed)) for seed in range(n, n + 20)) for n in range(9)]
    chunks = [cut(text) for text in texts]
    monkeypatch.setattr(counting, "_MEMORY", 5)
    forgetful = Chunker(ChunkerSpec(TOKENS, 0), TOKENIZER)
    assert [cut(text, chunker=forgetful) for text in texts] == chunks


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
        lambda a, b, c: content_hash_of(a, b, "", {"key": c}),
        lambda a, b, c: content_hash_of("", a, b, {c: ""}),
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
