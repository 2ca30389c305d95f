"""HTML → Markdown, without what surrounds the text on every page.

Belongs here: what of a page is its text, title and metadata. Does not belong here: other formats
that become HTML on their way (`docx.py`), beyond the way from there to Markdown.
"""

import re
from typing import TYPE_CHECKING

from agent_pipelines.indexing.extraction.text import Extracted, decode, title_of

if TYPE_CHECKING:
    from turbohtml import Document, Element

#: Where a page says that its text is.
_MAIN = "main, [role=main]"
_ARTICLE = "article"

#: Text shorter than this share of the page's is not what the page is about.
_MIN_MAIN_SHARE = 0.1

#: What a page marks as surrounding its text: by element, by ARIA role, or by the class that
#: DocBook, Sphinx and MkDocs, or Docusaurus give it. A header within an article or a section is
#: part of the text (HTML Standard, 4.3.8).
_BOILERPLATE = ", ".join(
    [
        "nav, script, style, template, noscript, svg",
        "[role=navigation], [role=banner], [role=contentinfo], [role=search]",
        "header:not(:is(article, main, section) header)",
        "footer:not(:is(article, main, section) footer)",
        ".navheader, .navfooter",
        ".headerlink, .hash-link",
    ]
)

#: A charset is declared within the first 1024 bytes (HTML Standard, 4.2.5.4), XHTML's before them.
_CHARSET = re.compile(
    rb"""<(?:meta\b[^>]*?\bcharset|\?xml\b[^>]*?\bencoding)\s*=\s*["']?\s*([\w:.-]+)""",
    re.IGNORECASE,
)


def read(data: bytes, charset: str | None) -> Extracted:
    """A page as Markdown: headings, lists, code and tables are kept, links as their text."""
    import turbohtml

    page = turbohtml.parse(decode(data, charset or _declared(data)))
    said = {
        str(meta.attr("name")).lower(): meta.attr("content") or ""
        for meta in reversed(page.select("meta[name]"))
    }
    title = page.select_one("title")
    page.remove(_BOILERPLATE)
    text = "\n\n".join(to_markdown(part) for part in _parts(page))
    return Extracted(
        text,
        "markdown",
        title=(title and title.text.strip()) or title_of(text, fallback="") or None,
        metadata={key: said[key] for key in ("description", "author", "keywords") if key in said},
    )


def to_markdown(node: "Document | Element") -> str:
    """Markdown (GitHub's) in which nothing is escaped: it is read by people and models."""
    from turbohtml import Markdown

    return node.to_markdown(
        Markdown(
            links=Markdown.Links(ignore=True),
            images=Markdown.Images(mode="alt"),
            tables=Markdown.Tables(cell_blocks="text"),
            escaping=Markdown.Escaping(mode="none", asterisks=False, underscores=False),
        )
    )


def _declared(data: bytes) -> str | None:
    match = _CHARSET.search(data[:1024])
    charset = match[1].decode("ascii").lower() if match else None
    # Whoever could read the declaration cannot have read UTF-16 (HTML Standard, 13.2.3.2).
    return "utf-8" if charset and charset.startswith("utf-16") else charset


def _parts(page: "Document") -> "list[Document | Element]":
    whole = len(page.text)
    for selector in (_MAIN, _ARTICLE):
        outermost = [
            part
            for part in page.select(selector)
            if not (part.parent and part.parent.closest(selector))
        ]
        if sum(len(part.text) for part in outermost) > _MIN_MAIN_SHARE * whole:
            return list(outermost)
    return [page]
