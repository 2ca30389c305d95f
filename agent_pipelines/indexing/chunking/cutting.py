"""Where a text is cut: by its structure, then by its own words, never by what was cut before.

Belongs here: which boundaries become cuts. Does not belong here: what a text's boundaries are
(`blocks.py`), or what a chunk is beyond its text (`__init__.py`).
"""

import re
import zlib
from bisect import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from agent_pipelines.indexing.chunking.blocks import (
    ANNOUNCED,
    COST,
    LAST_HEADING,
    PART_OF_WORD,
    PROSE,
    Block,
    blocks_of,
)
from agent_pipelines.indexing.chunking.counting import SPACE, TokenCounter

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: No cut is made nearer than this share of a chunk to one that separates more: a shorter section
#: is kept with a neighbour.
_MIN_SHARE = 0.25

#: A stretch without a heading is divided into groups of at most this many chunks.
_GROUP = 3

#: This many characters of a block say where it comes among its equals: few, so that most edits
#: leave that as it was; enough to tell blocks apart.
_SIGNIFICANT = 80

_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
_WORD = re.compile(rf"[^{SPACE}]+")


class _Unit(NamedTuple):
    """What is not divided any further: where it starts, the rank of that boundary, its size."""

    start: int
    rank: int
    tokens: int


class Cutter:
    """Cuts texts into chunks of at most `tokens` tokens, special ones not counted.

    - Nothing is lost and nothing is ever truncated: one after the other, the chunks hold every
      character of the text that is not space, and each fits (one character is the least).
    - A block that fits is not cut: a paragraph, a table, code. A heading stays with what follows
      it, and starts a chunk where there is enough text on both sides of it.
    - An edit moves a few chunks, wherever it is and however long the text. Boundaries are taken by
      rank (headings before paragraphs before sentences) and equals by a hash of the words that
      follow. One becomes a cut if the nearest cuts so far are far enough away on either side: that
      depends on nothing but the text between those. The groups so made, of up to three chunks, are
      then filled as evenly as their blocks allow. So this is content-defined chunking as in rsync
      and restic, with priorities in place of a scan: no cut depends on where the text before it
      happened to be cut.
    - Equal text is cut equally.

    A word that is longer than a chunk is cut between its characters. A shorter one stays whole,
    even where the model's vocabulary knows no word of its length (BERT's: 100 characters) and reads
    nothing in it: it is rarely language, and any space put into it would change the text.
    """

    def __init__(self, tokens: int, overlap: int, tokenizer: "Tokenizer") -> None:
        self._limit = tokens
        self._overlap = min(overlap, tokens - 1)
        self._room = tokens - self._overlap
        self._counter = TokenCounter(tokenizer)

    def cut(self, text: str, format_: str) -> list[str]:
        """The chunks' texts, in order; `format_` is `markdown` or `text`."""
        units = self._units(text, blocks_of(text, format_))
        starts = [*(unit.start for unit in units), len(text)]
        tokens = [0, *accumulate(unit.tokens for unit in units)]
        cuts = [0]
        for first, last in pairwise(self._groups(text, units, tokens)):
            cuts += self._filled(units, tokens, first, last)
        chunks: list[str] = []
        lowest = 0
        for first, last in pairwise(cuts):
            start = starts[first]
            if self._overlap and units[first].rank > LAST_HEADING:
                start = self._overlapping(text, lowest, start)
            lowest = starts[first]
            if chunk := _BLANK_LINES.sub("", text[start : starts[last]].rstrip()):
                chunks.append(chunk)
        if self._counter.exact_by_word and all(unit.rank < PART_OF_WORD for unit in units):
            return chunks
        sizes = self._counter.exact(chunks)
        return [
            piece
            for chunk, size in zip(chunks, sizes, strict=True)
            for piece in ([chunk] if size <= self._limit else self._halves(chunk))
        ]

    def _units(self, text: str, blocks: Sequence[Block]) -> list[_Unit]:
        """The blocks; in place of one that does not fit, its parts."""
        ends = [*(block.start for block in blocks[1:]), len(text)]
        sizes = self._counter.by_word(
            [text[block.start : end] for block, end in zip(blocks, ends, strict=True)]
        )
        units: list[_Unit] = []
        above = 0  # the tokens of what announces this block
        for block, end, size in zip(blocks, ends, sizes, strict=True):
            above = above if block.rank == ANNOUNCED else 0
            # A paragraph that fits, but not below its heading, is cut rather than left without it.
            if size <= self._room - (above if block.finer is PROSE else 0):
                units.append(_Unit(block.start, block.rank, size))
            else:
                units += self._divided(text, block, end)
            above += size
        return units

    def _divided(self, text: str, block: Block, end: int) -> Iterator[_Unit]:
        (rank, ends), *finer = block.finer
        inner = (match.end() for match in ends.finditer(text, block.start, end))
        starts = [block.start, *(start for start in inner if start < end)]
        parts = list(pairwise([*starts, end]))
        sizes = self._counter.by_word([text[start:stop] for start, stop in parts])
        for (start, stop), size in zip(parts, sizes, strict=True):
            own = block.rank if start == block.start else rank
            if size <= self._room or not finer:
                yield _Unit(start, own, size)
            else:
                yield from self._divided(text, Block(start, own, tuple(finer)), stop)

    def _groups(self, text: str, units: Sequence[_Unit], tokens: Sequence[int]) -> list[int]:
        """The numbers of the units that start a group, and of the last one's end."""
        shortest = _MIN_SHARE * self._room
        longest = _GROUP * self._room

        def priority(number: int) -> tuple[int, int]:
            start, stop = units[number].start, starts[number + 1]
            words = text[start : min(stop, start + _SIGNIFICANT)]
            return units[number].rank, zlib.crc32(words.encode())

        starts = [*(unit.start for unit in units), len(text)]
        short = tokens[-1] <= longest
        candidates = [
            number
            for number in range(1, len(units))
            if not short or units[number].rank <= LAST_HEADING
        ]
        cuts = [0, len(units)]
        for number in sorted(candidates, key=priority):
            at = bisect(cuts, number)
            before = tokens[number] - tokens[cuts[at - 1]]
            behind = tokens[cuts[at]] - tokens[number]
            wanted = units[number].rank <= LAST_HEADING or before + behind > longest
            if wanted and before >= shortest and behind >= shortest:
                cuts.insert(at, number)
        return cuts

    def _filled(
        self, units: Sequence[_Unit], tokens: Sequence[int], first: int, last: int
    ) -> list[int]:
        """The numbers of the units that end a chunk, of all ways to cut the group the cheapest."""
        if tokens[last] - tokens[first] <= self._room:
            return [last]
        best = {first: (0.0, first)}  # cost of cutting up to there, and the cut before
        for end in range(first + 1, last + 1):
            cut_here = COST[units[end].rank] if end < last else 0.0
            ways = []
            for start in range(end - 1, first - 1, -1):
                share = (tokens[end] - tokens[start]) / self._room
                if share > 1 and start < end - 1:
                    break
                ways.append((best[start][0] + (1 - share) ** 2 + cut_here, start))
            best[end] = min(ways)
        cuts = [last]
        while (start := best[cuts[-1]][1]) != first:
            cuts.append(start)
        return cuts[::-1]

    def _overlapping(self, text: str, lowest: int, start: int) -> int:
        """Where a chunk starts that begins with the last words of the one before it."""
        words = list(_WORD.finditer(text, lowest, start))
        sizes = self._counter.by_word([word[0] for word in words])
        room = self._overlap
        for word, size in zip(reversed(words), reversed(sizes), strict=True):
            if (room := room - size) < 0:
                break
            start = word.start()
        return start

    def _halves(self, text: str) -> list[str]:
        """Pieces of a text that proved too long, cut at the space next to the middle."""
        if len(text) == 1 or self._counter.exact([text])[0] <= self._limit:
            return [text]
        ends = (match.end() for match in re.finditer(rf"(?<=[^{SPACE}])[{SPACE}]+", text))
        middle = len(text) // 2
        cut = min(ends, key=lambda end: abs(end - middle), default=middle)
        return [*self._halves(text[:cut].rstrip()), *self._halves(text[cut:])]
