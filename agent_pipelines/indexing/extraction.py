"""Bytes → text, with a named failure instead of an empty or garbled success.

Belongs here: decoding and recognising formats. Does not belong here: where the bytes come from.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from charset_normalizer import from_bytes

from agent_pipelines.indexing.sources import DocumentError

#: File endings that can be read, and how their text is split.
FORMATS = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".txt": "text",
    ".text": "text",
    ".rst": "text",
}

#: Above this share of replacement and control characters a text is called garbled.
_MAX_GARBLED_SHARE = 0.05


@dataclass(frozen=True)
class Extracted:
    """What a file's bytes say."""

    text: str
    format: str
    """`markdown` or `text`: decides how the text is split."""
    title: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def extract(data: bytes, *, name: str, media_type: str | None = None) -> Extracted:
    """The text of a file, its format told by its media type where one is known, else by its name.

    Raises:
        DocumentError: it cannot be read, or holds no usable text.
    """
    del media_type
    format_ = format_of(name)
    text = checked(decode(data))
    return Extracted(text, format_, title_of(text, fallback="") or None)


def format_of(name: str) -> str:
    """The format of a file by its ending.

    Raises:
        DocumentError: the ending is not one that can be read.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise DocumentError(f"files ending in {suffix or 'nothing'!r} cannot be read ({known} can)")
    return FORMATS[suffix]


def decode(data: bytes) -> str:
    """Decode text of unknown encoding.

    Raises:
        DocumentError: the bytes are not text in any known encoding.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        best = from_bytes(data).best()
        if best is None:
            raise DocumentError("not text in any known encoding") from None
        return str(best)


def checked(text: str) -> str:
    """The text in one normal form, so that equal text has equal hashes.

    Raises:
        DocumentError: it is blank or garbled.
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.strip():
        raise DocumentError("holds no text")
    garbled = sum(1 for c in text if c == "\ufffd" or (c < " " and c not in "\n\t\f"))
    if garbled > _MAX_GARBLED_SHARE * len(text):
        raise DocumentError(f"garbled: {garbled} of {len(text)} characters are not text")
    # Control characters that are few carry nothing and cannot be stored everywhere (NUL).
    return "".join(c for c in text if c >= " " or c in "\n\t")


def title_of(text: str, fallback: str) -> str:
    """The first Markdown heading, or `fallback`."""
    for line in text.splitlines()[:50]:
        if line.startswith("# ") and line[2:].strip():
            return line[2:].strip()[:200]
    return fallback
