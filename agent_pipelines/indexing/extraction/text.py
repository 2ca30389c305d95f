"""Bytes → characters, and the one form of text that is hashed and stored.

Belongs here: encodings, what makes text usable, the title of text that is text already. Does not
belong here: any format that has to be converted.
"""

import codecs
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from charset_normalizer import from_bytes

from agent_pipelines.indexing.sources import DocumentError

#: Above this share of replacement and control characters a text is called garbled.
_MAX_GARBLED_SHARE = 0.05

#: Bytes that are not UTF-8 are called damage, and not another encoding, up to this share of what
#: the text holds beyond ASCII.
_MAX_DAMAGED_SHARE = 0.1

#: A title is shown in one line.
_MAX_TITLE = 200

#: Longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

#: Controls, halves of a surrogate pair and noncharacters: nothing in a text, and not to be stored
#: everywhere (PostgreSQL refuses NUL, UTF-8 the halves).
_NOT_TEXT = "\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff"
_CONTROL = re.compile(f"[{_NOT_TEXT}]")
_GARBLED = re.compile(f"[{_NOT_TEXT}\ufffd]")


@dataclass(frozen=True)
class Extracted:
    """What a file's bytes say."""

    text: str
    format: str
    """`markdown` or `text`: decides how the text is split."""
    title: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def in_normal_form(self) -> "Extracted":
        """The same, with everything in it fit to be hashed and stored.

        Raises:
            DocumentError: the text is blank or garbled.
        """
        metadata = {
            # What searches are filtered by is written `key=value`.
            _line(key).replace("=", "-"): _normal(value).strip()
            for key, value in self.metadata.items()
        }
        return Extracted(
            text=checked(self.text),
            format=self.format,
            title=_line(self.title or "")[:_MAX_TITLE] or None,
            metadata={key: value for key, value in metadata.items() if key and value},
        )


def plain(data: bytes, charset: str | None) -> Extracted:
    """Text that is text already."""
    return Extracted(decode(data, charset), "text")


def decode(data: bytes, charset: str | None = None) -> str:
    """Decode text by its byte order mark, else the charset that it is said to have, else UTF-8.

    The mark comes first as in the WHATWG's Encoding Standard. Where nothing of this fits the
    bytes, the encoding is guessed.

    Raises:
        DocumentError: the bytes are not text in any known encoding.
    """
    marked = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
    for encoding in (marked, charset and _meant(charset), "utf-8"):
        if encoding:
            try:
                return data.decode(encoding)
            except (LookupError, ValueError):  # no text encoding of that name, or not these bytes
                continue
    text = data.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    beyond_ascii = sum(len(run) for run in re.findall(r"[^\x00-\x7f]+", text))
    if damaged <= _MAX_DAMAGED_SHARE * beyond_ascii:
        return text
    best = from_bytes(data).best()
    if best is None:
        raise DocumentError("not text in any known encoding")
    return str(best)


def checked(text: str) -> str:
    """The text in one normal form, so that equal text has equal hashes.

    Raises:
        DocumentError: it is blank or garbled.
    """
    normal = _normal(text)
    if not normal.strip():
        raise DocumentError("holds no text")
    garbled = len(_GARBLED.findall(text))
    if garbled > _MAX_GARBLED_SHARE * len(text):
        raise DocumentError(f"garbled: {garbled} of {len(text)} characters are not text")
    return normal


def title_of(text: str, fallback: str) -> str:
    """The first Markdown heading, or `fallback`."""
    in_code = False
    for line in text.splitlines()[:50]:
        in_code ^= line.startswith("```")
        if not in_code and line.startswith("# ") and line[2:].strip():
            return line[2:].strip()[:_MAX_TITLE]
    return fallback


def _meant(charset: str) -> str:
    # What calls itself Latin-1 is Windows' superset of it (WHATWG, Encoding, 4.2).
    known = charset.strip().lower().replace("_", "-")
    return "cp1252" if known in {"iso-8859-1", "iso8859-1", "latin-1", "latin1", "l1"} else known


def _normal(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    return _CONTROL.sub("", unicodedata.normalize("NFC", text))


def _line(text: str) -> str:
    return " ".join(_normal(text).split())
