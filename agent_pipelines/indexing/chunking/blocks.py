"""What a text is made of: blocks, and ever finer boundaries within a block.

Belongs here: reading structure from Markdown and plain text. Does not belong here: sizes, or which
boundaries become cuts (`cutting.py`).
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from markdown_it import MarkdownIt

from agent_pipelines.indexing.chunking.counting import SPACE

# Ranks: how much a boundary separates; the smaller the rank, the more. Headings are 1 to 6; what a
# heading or a term announces is hardly separated from it.
LAST_HEADING = 6
_UNDERLINED = 3
_BLOCK = 7
_NESTED_BLOCK = 10
_SENTENCE = 11
_LINE = 12
ANNOUNCED = 13
_WORD = 14
PART_OF_WORD = 15
_CHARACTERS = 16

#: What a cut at a boundary costs, by its rank; a chunk costs the square of the share of it that
#: stays empty.
COST = (*[0.0] * 8, 0.02, 0.04, 0.06, 0.15, 0.2, 1.0, 0.6, 0.8, 1.0)

#: A line of its own that is no sentence (a term, the name of an option), or a colon in the end.
_ANNOUNCES = re.compile(r"[^\n]{0,79}[^\n.!?…。]|(?s:.*):")

_PARAGRAPH_ENDS = re.compile(r"\n(?:[^\S\n]*\n)+")
_UNDERLINED_TITLE = re.compile(
    r"(?P<title>\S[^\n]*)\n(?P<line>([=\-~^\"'#*+`.:_])\3{2,})[ \t]*$", re.MULTILINE
)

_SENTENCE_ENDS = re.compile(rf"[.!?…][\"'”’)\]*_`]*[{SPACE}]+|[。！？][」』”’）]*")
_LINE_ENDS = re.compile(r"\n+")
_FINER = (
    # Of all spaces those behind a long word: a fifth, which is enough to choose from.
    (_WORD, re.compile(rf"(?<=[^{SPACE}]{{7}})[{SPACE}]+")),
    (_WORD, re.compile(rf"[{SPACE}]+")),
    (PART_OF_WORD, re.compile(r"[\W_]+")),
    (_CHARACTERS, re.compile(r"(?s:.{32})")),
    (_CHARACTERS, re.compile(r"(?s:.)")),
)

#: Ever finer boundaries within a block, the first where one can be cut best: what a boundary ranks,
#: and what ends at it.
PROSE = ((_SENTENCE, _SENTENCE_ENDS), (_LINE, _LINE_ENDS), *_FINER)

#: The same for code and tables.
VERBATIM = ((_SENTENCE, _LINE_ENDS), (_LINE, _SENTENCE_ENDS), *_FINER)


class Block(NamedTuple):
    """Text from `start` (a character's offset) to where the next block starts."""

    start: int
    rank: int
    """Of the boundary at its start."""
    finer: tuple[tuple[int, re.Pattern[str]], ...] = PROSE


def blocks_of(text: str, format_: str) -> list[Block]:
    """The text's blocks in order; together they are all of it.

    Markdown's are those of CommonMark and GitHub's tables, at every depth of nesting. Plain text's
    are what blank lines separate; a line that is underlined in its whole length is a heading.
    """
    blocks = list(_markdown(text) if format_ == "markdown" else _plain(text))
    return blocks if blocks and blocks[0].start == 0 else [Block(0, _BLOCK), *blocks]


def _parser() -> MarkdownIt:
    parser = MarkdownIt().enable("table")
    # Without what is in the blocks, which takes most of the time.
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


_MARKDOWN = _parser()
_CODE = frozenset(["fence", "code_block", "html_block", "table_open"])
_WITHIN_TABLE = frozenset(["thead_open", "tbody_open", "tr_open", "th_open", "td_open", "inline"])


def _markdown(text: str) -> Iterator[Block]:
    # As the parser counts lines: splitlines() would also split at U+2028 and its like.
    lines = [0, *(match.end() for match in re.finditer("\n", text)), len(text)]
    last = -1
    announcing = 0  # the level of the heading directly above, or lower than any for a term
    for token in _MARKDOWN.parse(text):
        if not token.map or token.nesting < 0 or token.type in _WITHIN_TABLE:
            continue
        start, end = (lines[line] for line in token.map)
        if start == last:
            continue  # the first thing in a list's item, which has been counted
        last = start
        if token.type == "heading_open" and token.level == 0:
            level = int(token.tag[1:])
            yield Block(start, ANNOUNCED if 0 < announcing < level else level)
            announcing = level
        else:
            rank = ANNOUNCED if announcing else min(_BLOCK + token.level, _NESTED_BLOCK)
            yield Block(start, rank, VERBATIM if token.type in _CODE else PROSE)
            term = token.type == "paragraph_open" and _announces(text[start:end])
            announcing = LAST_HEADING + 1 if term else 0


def _plain(text: str) -> Iterator[Block]:
    starts = [0, *(match.end() for match in _PARAGRAPH_ENDS.finditer(text)), len(text)]
    below_title = below_term = False
    for start, end in pairwise(starts):
        title = _UNDERLINED_TITLE.match(text, start)
        if title and abs(len(title["title"].rstrip()) - len(title["line"])) <= 2:
            yield Block(start, ANNOUNCED if below_title else _UNDERLINED)
            below_title, below_term = not text[title.end() : end].strip(), False
        else:
            yield Block(start, ANNOUNCED if below_title or below_term else _BLOCK)
            below_title, below_term = False, _announces(text[start:end])


def _announces(paragraph: str) -> bool:
    return _ANNOUNCES.fullmatch(paragraph.rstrip()) is not None
