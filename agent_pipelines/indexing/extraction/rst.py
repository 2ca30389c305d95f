"""reStructuredText → Markdown, as far as cutting and reading need it.

Belongs here: one pass over the lines, by the rules of docutils' specification. Does not belong
here: what takes a whole project to resolve (references, includes, Sphinx's own directives): their
words are kept, and none of them fails a document.
"""

import re
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from agent_pipelines.indexing.extraction.text import Extracted, decode, title_of

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1+$")
_BULLET = re.compile(r"(?:(?:[-*+•‣⁃]|\(?(?:#|\d+|[a-zA-Z]|[ivxlcIVXLC]+)[.)])\s+)+")
_GRID_TABLE = re.compile(r"\+[-=+]{2,}\+$")
_SIMPLE_TABLE = re.compile(r"=+(?: +=+)+$")
_SUBSTITUTION = re.compile(
    r"^\.\. \|(?P<name>[^|\n]+)\| replace:: *(?P<text>.*(?:\n[ \t]+\S.*)*)", re.MULTILINE
)
_DIRECTIVE = re.compile(r"\.\. (?P<name>[\w:.+-]*\w) ?::(?: +(?P<rest>.*))?$")
_TARGET = re.compile(r"\.\. _.*:(?: |$)|__ ")
_FOOTNOTE = re.compile(r"\.\. (?P<rest>\[[^\]]+\](?: .*)?)$")
_OPTION = re.compile(r":(?P<name>[\w-]+):(?: +(?P<value>.*))?$")

#: Directives whose content is code or data, to be kept to the letter.
_CODE = frozenset(["code", "code-block", "sourcecode"])  # told the language
_DATA = frozenset(
    [
        *("parsed-literal", "literalinclude", "productionlist", "raw", "csv-table", "math"),
        *("doctest", "testcode", "testoutput", "prompt", "graphviz", "mermaid", "uml"),
    ]
)

#: Directives that tell the generator something, and the reader nothing.
_SILENT = frozenset(["contents", "sectnum", "highlight", "default-role", "role", "tabularcolumns"])

#: Options of a directive that are text.
_CAPTIONS = frozenset(["alt", "caption"])

#: Literals; roles and references, before or behind a text in backquotes.
_INLINE = re.compile(
    r"``(?P<literal>[^\s`](?:.*?\S)?)``(?!`)"
    r"|(?P<role>:[\w:.+-]+:)?(?<!`)`(?P<text>[^\s`](?:[^`]*[^\s`])?)`(?!`)"
    r"(?P<behind>__?(?!\w)|:[\w:.+-]+:)?",
    re.DOTALL,
)
_TITLE_AND_TARGET = re.compile(r"(?P<title>.+?)\s+<[^<>]+>$", re.DOTALL)


def read(data: bytes, charset: str | None) -> Extracted:
    """Headings, code and tables as Markdown writes them; roles and references as their text."""
    text = "\n\n".join(_blocks(decode(data, charset)))
    return Extracted(text, "markdown", title_of(text, fallback="") or None)


def _blocks(text: str) -> Iterator[str]:
    substitutions = {m["name"]: " ".join(m["text"].split()) for m in _SUBSTITUTION.finditer(text)}
    styles: list[tuple[str, bool]] = []  # of headings: what comes first is what stands highest
    lines = [line.rstrip() for line in text.expandtabs().splitlines()]
    at = 0
    while at < len(lines):
        line = lines[at].lstrip()
        indent = len(lines[at]) - len(line)
        if not line:
            at += 1
        elif not indent and (heading := _heading(lines, at)):
            title, style, height = heading
            if style not in styles:
                styles.append(style)
            level = min(styles.index(style) + 1, 6)
            yield f"{'#' * level} {_inline(title, substitutions)}"
            at += height
        elif line == ".." or line.startswith(".. ") or _TARGET.match(line):
            ends_here = line == ".." and not any(lines[at + 1 : at + 2])
            content, end = ([], at + 1) if ends_here else _indented(lines, at + 1, indent)
            again, code, language = _explicit(line, content)
            lines[at:end] = [" " * indent + one for one in again]
            if code:
                yield _fenced(code, indent, language)
        elif table_end := _table_end(lines, at, indent):
            yield _fenced([one[indent:] for one in lines[at:table_end]], indent)
            at = table_end
        else:
            end = next((n for n in range(at, len(lines)) if not lines[n]), len(lines))
            paragraph, at = lines[at:end], end
            if line.startswith(">>> "):
                yield _fenced([one[indent:] for one in paragraph], indent)
                continue
            inner = _text_indent(paragraph[-1])
            code, after = _indented(lines, end, inner)
            if code and paragraph[-1].endswith("::"):
                paragraph[-1] = re.sub(r"(^|\s+|(?<=:)):$", "", paragraph[-1].removesuffix(":"))
                yield _inline("\n".join(paragraph).rstrip(), substitutions)
                yield _fenced(code, inner)
                at = after
            else:
                yield _inline("\n".join(paragraph), substitutions)


def _heading(lines: Sequence[str], at: int) -> tuple[str, tuple[str, bool], int] | None:
    """Title, style (its character, and whether it stands above too), and number of lines."""
    following = [*lines[at + 1 : at + 3], "", ""]
    if _ADORNMENT.match(lines[at]):
        if following[0] and following[1] == lines[at]:
            return following[0].strip(), (lines[at][0], True), 3
        if len(lines[at]) >= 4 and not following[0]:
            return None  # a rule between paragraphs, as in Markdown
    below = following[0]
    wide_enough = len(below) >= 4 or len(below) >= _width(lines[at])
    if _ADORNMENT.match(below) and wide_enough:
        return lines[at], (below[0], False), 2
    return None


def _explicit(line: str, content: list[str]) -> tuple[list[str], list[str], str]:
    """What explicit markup says: lines to be read in its place; code to be kept; its language."""
    if footnote := _FOOTNOTE.match(line):
        return [footnote["rest"], *content], [], ""
    directive = _DIRECTIVE.match(line)
    if directive is None or _TARGET.match(line) or directive["name"] in _SILENT:
        return [], [], ""  # a comment, a target, the definition of a substitution
    name, rest = directive["name"], directive["rest"] or ""
    captions = []
    while content and (option := _OPTION.match(content[0])):
        content = content[1:]
        if option["name"] in _CAPTIONS and option["value"]:
            captions += ["", option["value"]]
    if name in _CODE:
        return captions, content, rest
    if name in _DATA:
        return captions, [rest, *content] if rest else content, ""
    return [f"**{name}:** {rest}".rstrip(), *content, *captions, ""], [], ""


def _indented(lines: Sequence[str], start: int, indent: int) -> tuple[list[str], int]:
    """The lines from `start` that are indented deeper, less what all are; where they end."""
    end = at = start
    while at < len(lines) and (not lines[at] or lines[at][: indent + 1].isspace()):
        at += 1
        if lines[at - 1]:
            end = at
    depth = min((len(one) - len(one.lstrip()) for one in lines[start:end] if one), default=0)
    return [one[depth:] for one in lines[start:end]], end


def _table_end(lines: Sequence[str], at: int, indent: int) -> int | None:
    """Where a table that starts here ends; None if none does."""
    border = lines[at][indent:]
    if _GRID_TABLE.match(border):
        end = at + 1
        while end < len(lines) and lines[end][indent : indent + 1] in ("+", "|"):
            end += 1
        return end
    if _SIMPLE_TABLE.match(border):
        for end in range(at + 2, len(lines) + 1):
            closes = _SIMPLE_TABLE.match(lines[end - 1][indent:])
            if closes and (end == len(lines) or not lines[end]):
                return end
    return None


def _fenced(code: Sequence[str], indent: int, language: str = "") -> str:
    text = "\n".join(code).strip("\n")
    longest = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return textwrap.indent(f"{fence}{language}\n{text}\n{fence}", " " * indent)


def _text_indent(line: str) -> int:
    """Where the text of a line starts, behind the mark of a list's item."""
    text = line.lstrip()
    mark = _BULLET.match(text)
    return len(line) - len(text) + (mark.end() if mark else 0)


def _inline(text: str, substitutions: dict[str, str]) -> str:
    def plain(match: re.Match[str]) -> str:
        if literal := match["literal"]:
            return f"`{literal}`" if "`" not in literal else match[0]
        if not (match["role"] or match["behind"]):
            return match[0]
        named = _TITLE_AND_TARGET.match(match["text"])
        return named["title"] if named else match["text"].lstrip("~!")

    text = _INLINE.sub(plain, text) if "`" in text else text
    for name, replacement in substitutions.items():
        text = text.replace(f"|{name}|", replacement)
    return text.replace("\\ ", "")


def _width(title: str) -> int:
    """Columns that a title takes: East Asian letters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in title
    )
