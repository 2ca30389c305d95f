"""Bytes → text: every format, in whatever encoding, and never an empty or garbled success."""

import io
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_pipelines.indexing.extraction import (
    Extracted,
    checked,
    decode,
    docx,
    extract,
    title_of,
)
from agent_pipelines.indexing.sources import DocumentError

GERMAN = "Größe und Übermaß: die Straße führt über Änderungen der Öffnung nach außen. " * 4


@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufeff")))
def test_utf8_is_decoded_as_it_is_with_or_without_a_mark(text: str) -> None:
    assert decode(text.encode()) == text
    assert decode(b"\xef\xbb\xbf" + text.encode()) == text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp1252", "latin-1"])
def test_other_encodings_are_recognised(encoding: str) -> None:
    assert decode(GERMAN.encode(encoding)) == GERMAN


@pytest.mark.parametrize(
    ("data", "charset"),
    [
        ("Größe".encode("cp437"), "cp437"),
        ("“Größe”".encode("cp1252"), "ISO-8859-1"),  # as browsers take it
        ("“Größe”".encode(), "no-such-charset"),
        ("“Größe”".encode(), "ascii"),
        ("“Größe”".encode("utf-8-sig"), "iso-8859-1"),  # the mark is the surer sign
        ("“Größe”".encode("utf-16"), "utf-8"),
    ],
)
def test_a_declared_charset_is_believed_unless_the_bytes_contradict_it(
    data: bytes, charset: str
) -> None:
    text = extract(data, name="a.txt", media_type=f"text/plain; charset={charset}").text
    assert text.strip("“”") == "Größe"


def test_a_damaged_byte_does_not_make_utf8_another_encoding() -> None:
    damaged = GERMAN.encode().replace("ß".encode(), b"\xc3", 1)
    assert decode(damaged) == GERMAN.replace("ß", "\ufffd", 1)


@given(st.binary(max_size=200), st.sampled_from(["a.md", "a.txt", "a.rst", "a.html"]))
def test_any_bytes_are_text_or_a_named_failure_and_never_hold_nul(data: bytes, name: str) -> None:
    try:
        text = extract(data, name=name).text
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


@pytest.mark.parametrize(
    ("name", "media_type", "heading"),
    [
        ("A.MD", None, "# no heading here"),
        ("a.md", "text/plain", "# no heading here"),
        ("a.md", "application/octet-stream", "# no heading here"),
        ("a.md", "text/html; charset=utf-8", "# One"),
        ("b/a.htm", None, "# One"),
        ("page", "application/xhtml+xml", "# One"),
    ],
)
def test_a_media_type_tells_the_format_and_an_ending_where_it_is_vague(
    name: str, media_type: str | None, heading: str
) -> None:
    data = b"# no heading here\n<h1>One</h1><p>text</p>"
    extracted = extract(data, name=name, media_type=media_type)
    assert extracted.format == "markdown"
    assert heading in extracted.text
    assert ("<h1>" in extracted.text) == (heading != "# One")


def test_any_other_text_is_text_and_what_is_not_cannot_be_read() -> None:
    assert extract(b"a,b", name="table", media_type="text/csv").format == "text"
    for name in ("a.png", "README", "md"):
        with pytest.raises(DocumentError, match="cannot be read"):
            extract(b"text", name=name)


def test_the_title_is_the_first_heading_or_the_fallback() -> None:
    assert title_of("intro\n\n# The Title \n\n# Other", "x") == "The Title"
    assert title_of("```\n# comment\n```\n# Title", "x") == "Title"
    assert title_of("## Only a part\n#hash\n# \n", "docs/a.md") == "docs/a.md"
    assert len(title_of("# " + "long " * 100, "x")) <= 200


def test_front_matter_becomes_title_and_metadata() -> None:
    page = """---
title: The  Title
date: 2024-01-02
updated: 2024-01-02T03:04:05Z
tags: [one, 2, true]
author: {name: Jane, since: 2020-05-06}
draft: no
empty:
a=b: c
---
# Heading

text
"""
    assert extract(page.encode(), name="a.md") == Extracted(
        "# Heading\n\ntext\n",
        "markdown",
        "The Title",
        {
            "date": "2024-01-02",
            "updated": "2024-01-02T03:04:05+00:00",
            "tags": "one, 2, true",
            "author": '{"name": "Jane", "since": "2020-05-06"}',
            "draft": "false",
            "a-b": "c",
        },
    )


@pytest.mark.parametrize(
    "page",
    [
        "---\ntitle: never closed\n\ntext",
        "---\n\nText between two rules.\n\n---\n",
        "---\n- a\n- list\n---\ntext",
        "---\ntitle: [\n---\ntext",
        "---\ndate: 2024-13-45\n---\ntext",
        "---\na: &a [x, x]\nb: [*a, *a]\n---\ntext",
        pytest.param("---\na: " + "[" * 100_000 + "\n---\ntext", id="deep"),
        "text\n---\ntitle: not at the start\n---\n",
    ],
)
def test_what_is_no_proper_front_matter_stays_text(page: str) -> None:
    assert extract(page.encode(), name="a.md") == Extracted(page, "markdown")


HTML = """<!doctype html><html><head>
<meta name="Description" content="What it is"><meta name=author content="Jane">
<meta name=keywords content="a, b"><meta name=viewport content=x>
<title>The &amp;
Title</title><style>css</style></head><body>
<header>Banner</header><nav>Menu</nav><div role=search>Find</div>
<div>
<h1>Heading<a class=headerlink href="#h">¶</a></h1>
<p>Some <b>bold</b> <code>a_b*c</code> and a <a href="/x">link</a>.</p>
<ul><li>one</li><li>two<ol><li>deep</li></ol></li></ul>
<pre><code class="language-python">if x:
    return 1</code></pre>
<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
</div>
<footer>Imprint</footer><script>js</script></body></html>"""


def test_html_becomes_markdown_without_what_surrounds_the_text() -> None:
    extracted = extract(HTML.encode(), name="a.html")
    assert extracted.title == "The & Title"
    assert extracted.metadata == {
        "description": "What it is",
        "author": "Jane",
        "keywords": "a, b",
    }
    assert extracted.text == (
        "# Heading\n\n"
        "Some **bold** `a_b*c` and a link.\n\n"
        "- one\n- two\n  1. deep\n\n"
        "```python\nif x:\n    return 1\n```\n\n"
        "| a | b |\n| --- | --- |\n| 1 | 2 |"
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<p>aside</p><main><p>the text</p></main>", "the text"),
        ("<p>aside</p><div role=main><main>the</main> text</div>", "the\n\ntext"),
        ("<p>aside</p><article>one</article><article>two</article>", "one\n\ntwo"),
        ("<main></main><p>the text</p>", "the text"),
        ("<main>x</main><p>the text, much longer</p>", "x\n\nthe text, much longer"),
        ("<main><article><header><h2>T</h2></header>text</article></main>", "## T\n\ntext"),
    ],
)
def test_the_main_part_of_a_page_is_its_text_unless_it_is_near_empty(
    body: str, expected: str
) -> None:
    assert extract(f"<html><body>{body}</body></html>".encode(), name="a.html").text == expected


@pytest.mark.parametrize(
    "head",
    [
        '<meta charset="cp1251">',
        '<meta http-equiv="Content-Type" content="text/html; charset=cp1251">',
        '<?xml version="1.0" encoding="cp1251"?>',
        '<meta charset="windows-1251"><meta charset="utf-8">',
    ],
)
def test_a_page_may_declare_its_charset_itself(head: str) -> None:
    page = f"{head}<p>Война и мир</p>".encode("cp1251")
    assert extract(page, name="a.html").text == "Война и мир"
    wrong = '<meta charset="utf-16"><p>Größe</p>'.encode()
    assert extract(wrong, name="a.html").text == "Größe"
    other = f"{head}<p>Größe</p>".encode()
    assert extract(other, name="a", media_type="text/html; charset=utf-8").text == "Größe"


def test_restructuredtext_becomes_markdown() -> None:
    page = """.. SPDX-License-Identifier: a comment
   in two lines
.. _label:

=====
Title
=====

A paragraph with ``code``, :ref:`a title <label>`, :py:func:`~a.b`,
`text <https://example.org>`_ and |name|.

.. |name| replace:: what it
   stands for

Part
----

- an item::

    code of the item

  and more of it

Sub
~~~

.. code-block:: python
   :caption: A caption

   if x:
       return ``1``

.. note:: Mind this.

   .. sphinx-thing:: of its own
      :option: x

      with content

=====  =====
 a      b
=====  =====
 1      2
=====  =====

+---+
| x |
+---+

Part two
--------

>>> 1 + 1
2

.. [1] A footnote.

The end::
"""
    extracted = extract(page.encode(), name="a.rst")
    assert (extracted.format, extracted.title) == ("markdown", "Title")
    assert extracted.text == (
        "# Title\n\n"
        "A paragraph with `code`, a title, a.b,\ntext and what it stands for.\n\n"
        "## Part\n\n"
        "- an item:\n\n  ```\n  code of the item\n  ```\n\n  and more of it\n\n"
        "### Sub\n\n"
        "```python\nif x:\n    return ``1``\n```\n\n"
        "A caption\n\n"
        "**note:** Mind this.\n\n"
        "**sphinx-thing:** of its own\n\n"
        "with content\n\n"
        "```\n=====  =====\n a      b\n=====  =====\n 1      2\n=====  =====\n```\n\n"
        "```\n+---+\n| x |\n+---+\n```\n\n"
        "## Part two\n\n"
        "```\n>>> 1 + 1\n2\n```\n\n"
        "[1] A footnote.\n\n"
        "The end::"
    )


RST_LINES = st.one_of(
    st.sampled_from(["", "text", "=====", "--", "- a::", "  b", "    c", "..", ".. x", ".. x:: y"]),
    st.sampled_from(["+--+", "== ==", ">>> a", ".. [1] a", ".. _a:", "``a", ":a:`b`", "   :a: b"]),
    st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=10),
)


@settings(max_examples=200)
@given(st.lists(RST_LINES, max_size=15))
def test_no_restructuredtext_fails_or_loses_its_text(lines: list[str]) -> None:
    page = "\n".join([*lines, "", "text"])
    text = extract(page.encode(), name="a.rst").text
    assert text.count("text") >= lines.count("text") + 1


def word(body: str, *, properties: str = "") -> bytes:
    """A DOCX of its smallest parts."""
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006"
    main = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{main}.document.main+xml"/>'
        f'<Override PartName="/word/styles.xml" ContentType="{main}.styles+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/relationships/officeDocument" Target="word/document.xml"/>'
        "</Relationships>",
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r2" Type="{office}/relationships/styles" Target="styles.xml"/>'
        "</Relationships>",
        "word/styles.xml": '<w:styles xmlns:w="http://schemas.openxmlformats.org/'
        'wordprocessingml/2006/main">'
        + "".join(
            f'<w:style w:type="paragraph" w:styleId="{name.replace(" ", "")}">'
            f'<w:name w:val="{name}"/></w:style>'
            for name in ("Title", "heading 2", "HTML Preformatted", "Quote")
        )
        + "</w:styles>",
        "word/document.xml": '<w:document xmlns:w="http://schemas.openxmlformats.org/'
        f'wordprocessingml/2006/main"><w:body>{body}</w:body></w:document>',
        "docProps/core.xml": f'<cp:coreProperties xmlns:cp="{package}/metadata/core-properties" '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/">{properties}</cp:coreProperties>',
    }
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return stream.getvalue()


def styled(style: str, text: str) -> str:
    return f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr>{run(text)}</w:p>'


def run(text: str) -> str:
    return f'<w:r><w:t xml:space="preserve">{text}</w:t></w:r>'


CELLS = "".join(f"<w:tc><w:p>{run(text)}</w:p></w:tc>" for text in "ab")
WORD = word(
    styled("Title", "The Title")
    + f"<w:p>{run('Some ')}<w:r><w:rPr><w:b/></w:rPr><w:t>bold</w:t></w:r>{run(' text.')}</w:p>"
    + styled("heading2", "Part")
    + styled("HTMLPreformatted", "if x:")
    + styled("HTMLPreformatted", "    return 1")
    + styled("Quote", "quoted")
    + f"<w:tbl><w:tr>{CELLS}</w:tr><w:tr>{CELLS}</w:tr></w:tbl>",
    properties="<dc:title>Its name</dc:title><dc:creator>Jane &amp; Co</dc:creator>"
    "<cp:keywords>x, y</cp:keywords>",
)


def test_docx_becomes_markdown() -> None:
    extracted = extract(WORD, name="a.docx")
    assert extracted == Extracted(
        "# The Title\n\nSome **bold** text.\n\n## Part\n\n```\nif x:\n    return 1\n```\n\n"
        "> quoted\n\n| a | b |\n| --- | --- |\n| a | b |",
        "markdown",
        "Its name",
        {"author": "Jane & Co", "keywords": "x, y"},
    )
    assert extract(word(styled("Title", "The Title")), name="a.docx").title == "The Title"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no archive", "cannot be read as DOCX"),
        (WORD[:-200], "cannot be read as DOCX"),
        (word("<w:p>"), "cannot be read as DOCX"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "is encrypted, or the older DOC"),
        (word("<w:p/>"), "holds no text"),
    ],
)
def test_a_docx_that_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        extract(data, name="a.docx")


def test_a_docx_that_would_fill_the_memory_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docx, "_MAX_UNPACKED", 2**20)
    with pytest.raises(DocumentError, match="unpacks to 2 MiB"):
        extract(word(run("x" * 2**21)), name="a.docx")


def pdf(*pages: list[str], outline: str = "", trailer: str = "") -> bytes:
    """A PDF of its smallest parts, without a table of where they are: readers rebuild it."""
    kids = " ".join(f"{10 + 2 * n} 0 R" for n in range(len(pages)))
    parts = {
        1: "<< /Type /Catalog /Pages 2 0 R /Outlines 4 0 R >>",
        2: f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>",
        3: "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        4: "<< /Type /Outlines /First 5 0 R /Last 5 0 R >>",
        5: f"<< /Title ({outline}) /Parent 4 0 R /Dest [12 0 R /Fit] >>" if outline else "<< >>",
        6: "<< /Title (Its name) /Author (Jane) /Subject (What it is) >>",
    }
    for n, lines in enumerate(pages):
        shown = "0 -14 Td ".join(f"({line}) Tj " for line in lines)
        stream = f"BT /F 12 Tf 20 500 Td {shown}ET"
        parts[10 + 2 * n] = (
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 600] "
            f"/Resources << /Font << /F 3 0 R >> >> /Contents {11 + 2 * n} 0 R >>"
        )
        parts[11 + 2 * n] = f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream"
    objects = "".join(f"{n} 0 obj\n{part}\nendobj\n" for n, part in parts.items())
    return f"%PDF-1.4\n{objects}trailer\n<< /Root 1 0 R /Info 6 0 R {trailer} >>\n%%EOF".encode()


def test_pdf_becomes_text_and_its_outline_headings() -> None:
    pages = (["A cover."], ["1.2 The Part", "A line", "and another."])
    metadata = {"author": "Jane", "description": "What it is"}
    assert extract(pdf(*pages), name="a.pdf") == Extracted(
        "A cover.\n\n1.2 The Part\nA line\nand another.", "text", "Its name", metadata
    )
    assert extract(pdf(*pages, outline="The Part"), name="a.pdf") == Extracted(
        "A cover.\n\n# 1.2 The Part\n\nA line\nand another.", "markdown", "Its name", metadata
    )


ENCRYPTED = pdf(
    ["secret"],
    trailer=f"/ID [<{'00' * 16}> <{'00' * 16}>] /Encrypt << /Filter /Standard /V 2 /R 3 "
    f"/Length 128 /P -4 /O <{'11' * 32}> /U <{'22' * 32}> >>",
)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no PDF", "cannot be read as PDF"),
        (ENCRYPTED, "is encrypted: needs a password"),
        (pdf([""], [""]), "holds no text: 2 pages of pictures; run OCR"),
    ],
)
def test_a_pdf_that_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        extract(data, name="a.pdf")


def test_pdfs_can_be_read_by_several_threads_at_once() -> None:
    """PDFium must not be called by two at a time: the process would crash."""
    data = pdf(*[[f"Line {n} of a page." for n in range(30)]] * 5)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            texts = set(pool.map(lambda _: extract(data, name="a.pdf").text, range(800)))
    finally:
        sys.setswitchinterval(interval)
    assert len(texts) == 1
