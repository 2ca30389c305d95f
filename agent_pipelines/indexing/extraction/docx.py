"""Word's DOCX → Markdown.

Belongs here: what Word's styles mean. Does not belong here: the older DOC, which is no ZIP.
"""

import io
import zipfile
from typing import Any

from agent_pipelines.indexing.extraction.html import to_markdown
from agent_pipelines.indexing.extraction.text import Extracted, decode, title_of
from agent_pipelines.indexing.sources import DocumentError

#: Compound File Binary: how DOC begins, and a DOCX that is encrypted (MS-OFFCRYPTO).
_COMPOUND_FILE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

#: A document that unpacks to more is a mistake, or made to exhaust the memory of whoever reads it.
_MAX_UNPACKED = 512 * 2**20

#: In addition to those that the library knows (headings, lists, tables, footnotes).
_STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='Subtitle'] => p:fresh
p[style-name='Quote'] => blockquote > p:fresh
p[style-name='Intense Quote'] => blockquote > p:fresh
p[style-name='Block Text'] => blockquote > p:fresh
p[style-name='HTML Preformatted'] => pre:separator('\\n')
p[style-name='Source Code'] => pre:separator('\\n')
r[style-name='HTML Code'] => code
r[style-name='Verbatim Char'] => code
"""

#: Properties of the document (Dublin Core, as OPC stores them) by the name we give them.
_PROPERTIES = {"author": "creator", "description": "description", "keywords": "keywords"}


def read(data: bytes, charset: str | None) -> Extracted:
    """A document as Markdown: headings, lists, code and tables are kept, links as their text.

    Raises:
        DocumentError: it is no DOCX, is damaged or encrypted.
    """
    del charset
    import mammoth
    import turbohtml

    if data.startswith(_COMPOUND_FILE):
        raise DocumentError("is encrypted, or the older DOC format: save it as DOCX, unprotected")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > _MAX_UNPACKED:
                raise DocumentError(f"unpacks to {unpacked / 2**20:.0f} MiB")
            properties = _properties(archive)
        page = mammoth.convert_to_html(
            io.BytesIO(data), style_map=_STYLES, convert_image=mammoth.images.img_element(_no_image)
        )
        text = to_markdown(turbohtml.parse(page.value))
    except DocumentError:
        raise
    except Exception as error:  # whatever a damaged archive or its XML make the parsers stumble on
        raise DocumentError(f"cannot be read as DOCX: {error}") from error
    metadata = {ours: properties.get(theirs, "") for ours, theirs in _PROPERTIES.items()}
    title = properties.get("title") or title_of(text, fallback="") or None
    return Extracted(text, "markdown", title, metadata)


def _properties(archive: zipfile.ZipFile) -> dict[str, str]:
    import turbohtml

    if "docProps/core.xml" not in archive.namelist():
        return {}
    core = turbohtml.parse_xml(decode(archive.read("docProps/core.xml")))
    return {
        element.tag.rpartition(":")[2]: element.text
        for element in core.iter_elements()
        if element.text
    }


def _no_image(image: Any) -> dict[str, str]:
    """The library would embed the picture; only its alternative text is of use."""
    del image
    return {}
