"""PDF → text; Markdown where the PDF carries an outline.

Belongs here: pages and outline. Does not belong here: recognising letters in pictures.
"""

import re
import threading
from typing import Any

from agent_pipelines.indexing.extraction.text import Extracted
from agent_pipelines.indexing.sources import DocumentError

#: PDFium may be called by one thread at a time, whichever document it reads.
_PDFIUM = threading.Lock()

#: Entries of the information dictionary (ISO 32000-1, 14.3.3) by the name we give them.
_PROPERTIES = {"author": "Author", "description": "Subject", "keywords": "Keywords"}

#: What PDFium leaves of a word's hyphen at the end of a line, which it has joined already.
_HYPHEN = re.compile("[\x02\ufffe]")


def read(data: bytes, charset: str | None) -> Extracted:
    """The text of every page, the titles of its outline as headings where they stand.

    Raises:
        DocumentError: it is no PDF, is damaged or encrypted, or holds pictures of text only.
    """
    del charset
    from pypdfium2 import PdfDocument, PdfiumError

    with _PDFIUM:
        try:
            document = PdfDocument(data)
            pages = [_lines(page) for page in document]
            outline = _outline(document)
            properties: dict[str, str] = document.get_metadata_dict(skip_empty=True)
            document.close()
        except PdfiumError as error:
            if "password" in str(error).lower():
                raise DocumentError("is encrypted: needs a password to be read") from error
            raise DocumentError(f"cannot be read as PDF: {error}") from error
    if not any(line.strip() for page in pages for line in page):
        raise DocumentError(f"holds no text: {len(pages)} pages of pictures; run OCR on it first")
    for number, page in enumerate(pages):
        _mark_headings(page, outline.get(number, []))
    text = "\n\n".join("\n".join(page) for page in pages)
    return Extracted(
        re.sub(r"\n{3,}", "\n\n", text),
        "markdown" if outline else "text",
        properties.get("Title"),
        {ours: properties.get(theirs, "") for ours, theirs in _PROPERTIES.items()},
    )


def _lines(page: Any) -> list[str]:
    text: str = page.get_textpage().get_text_bounded()
    return _HYPHEN.sub("", text).splitlines()


def _outline(document: Any) -> dict[int, list[tuple[int, str]]]:
    """Level (from 1) and title of every entry, by the number of the page it points to."""
    entries: dict[int, list[tuple[int, str]]] = {}
    for bookmark in document.get_toc():
        target = bookmark.get_dest()
        page = target and target.get_index()
        if page is not None:
            entries.setdefault(page, []).append((bookmark.level + 1, bookmark.get_title()))
    return entries


def _mark_headings(lines: list[str], entries: list[tuple[int, str]]) -> None:
    """Make headings of the lines that say what the outline says, in its order."""
    start = 0
    for level, title in entries:
        wanted = _letters(title)
        for at in range(start, len(lines)):
            if wanted and _letters(lines[at]) == wanted:
                lines[at] = f"\n{'#' * min(level, 6)} {lines[at].strip()}\n"
                start = at + 1
                break


def _letters(title: str) -> str:
    """What is alike in "2.5 Priorities" on the page and "Priorities" in the outline."""
    return re.sub(r"[\W\d_]+", "", title).casefold()
