"""Bytes → text, with a named failure instead of an empty or garbled success.

Belongs here: telling formats apart; one file beside this one per format that is not text already.
Does not belong here: where the bytes come from, or where the text is cut.
"""

from collections.abc import Callable
from email.message import Message
from pathlib import PurePosixPath

from agent_pipelines.indexing.extraction import docx, html, markdown, pdf, rst
from agent_pipelines.indexing.extraction.text import (
    Extracted,
    checked,
    decode,
    plain,
    title_of,
)
from agent_pipelines.indexing.sources import DocumentError

__all__ = ["FORMATS", "Extracted", "checked", "decode", "extract", "title_of"]

#: File endings that can be read, and the format each one means.
FORMATS = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".txt": "text",
    ".text": "text",
    ".rst": "rst",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
}

#: Media types that name a format. Others (`text/plain`, `application/octet-stream`) are what
#: servers say of files that they know nothing about: then the ending decides.
_MEDIA_TYPES = {
    "text/markdown": "markdown",
    "text/x-markdown": "markdown",
    "text/x-rst": "rst",
    "text/prs.fallenstein.rst": "rst",
    "text/html": "html",
    "application/xhtml+xml": "html",
    "application/pdf": "pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
}

_READERS: dict[str, Callable[[bytes, str | None], Extracted]] = {
    "markdown": markdown.read,
    "text": plain,
    "rst": rst.read,
    "html": html.read,
    "pdf": pdf.read,
    "docx": docx.read,
}


def extract(data: bytes, *, name: str, media_type: str | None = None) -> Extracted:
    """The text of a file, its format told by its media type where one is known, else by its name.

    `media_type` is the value of a Content-Type header (RFC 9110); its charset is believed before
    the bytes are. What comes back is in normal form (`checked`), its metadata as well.

    Raises:
        DocumentError: it cannot be read, or holds no usable text.
    """
    header = Message()
    header["Content-Type"] = media_type or "application/octet-stream"
    format_ = _format_of(name, header.get_content_type())
    charset = header.get_param("charset")
    extracted = _READERS[format_](data, charset if isinstance(charset, str) else None)
    return extracted.in_normal_form()


def _format_of(name: str, media_type: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    if format_ := _MEDIA_TYPES.get(media_type) or FORMATS.get(suffix):
        return format_
    if media_type.startswith("text/"):
        return "text"
    known = ", ".join(sorted(FORMATS))
    raise DocumentError(f"files ending in {suffix or 'nothing'!r} cannot be read ({known} can)")
