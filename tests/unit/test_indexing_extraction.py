"""Bytes → text: in whatever encoding, and never an empty or garbled success."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pipelines.indexing.extraction import checked, decode, format_of, title_of
from agent_pipelines.indexing.sources import DocumentError

GERMAN = "Größe und Übermaß: die Straße führt über Änderungen der Öffnung nach außen. " * 4


@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufeff")))
def test_utf8_is_decoded_as_it_is_with_or_without_a_mark(text: str) -> None:
    assert decode(text.encode()) == text
    assert decode(b"\xef\xbb\xbf" + text.encode()) == text


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "latin-1"])
def test_other_encodings_are_recognised(encoding: str) -> None:
    assert decode(GERMAN.encode(encoding)) == GERMAN


@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_a_named_failure_and_never_hold_nul(data: bytes) -> None:
    try:
        text = checked(decode(data))
    except DocumentError:
        return
    assert text.strip()
    assert not {"\0", "\r"} & set(text)


@pytest.mark.parametrize("blank", ["", " ", "\n\t\r\n", "\u00a0\u2003"])
def test_blank_text_is_a_failure(blank: str) -> None:
    with pytest.raises(DocumentError, match="holds no text"):
        checked(blank)


@pytest.mark.parametrize("bad", ["\ufffd", "\0", "\x01"])
def test_garbled_text_is_a_failure_and_a_stray_character_is_not(bad: str) -> None:
    with pytest.raises(DocumentError, match="garbled: 10 of 100"):
        checked("a" * 90 + bad * 10)
    assert checked("a" * 96 + bad * 4).startswith("a" * 96)


def test_nul_is_taken_out_since_postgresql_cannot_hold_it() -> None:
    assert checked("a" * 50 + "\0b") == "a" * 50 + "b"


def test_utf16_without_a_mark_is_a_failure_and_no_text_full_of_nul() -> None:
    with pytest.raises(DocumentError):
        checked(decode("plain words".encode("utf-16-le")))


def test_equal_text_has_one_form() -> None:
    assert checked("a\r\nb\rc\u0308") == checked("a\nb\nc\u0308") == "a\nb\nc\u0308"
    assert checked("u\u0308") == "ü"


def test_formats_by_ending() -> None:
    assert [format_of(n) for n in ("a.md", "A.MD", "b/c.txt", "d.rst")] == [
        "markdown",
        "markdown",
        "text",
        "text",
    ]
    for name in ("a.pdf", "README", "md"):
        with pytest.raises(DocumentError, match="cannot be read"):
            format_of(name)


def test_the_title_is_the_first_heading_or_the_fallback() -> None:
    assert title_of("intro\n\n# The Title \n\n# Other", "x") == "The Title"
    assert title_of("## Only a part\n#hash\n# \n", "docs/a.md") == "docs/a.md"
    assert len(title_of("# " + "long " * 100, "x")) <= 200
