"""Document → chunks: token-bounded pieces whose boundaries survive edits.

Belongs here: where text is cut, and what a chunk's id and hash are made of. Does not belong here:
the tokenizer (it is the embedder's own) or anything about vectors.
"""

import hashlib
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from agent_pipelines.indexing.sources import Document, DocumentError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Names our chunk ids among all UUIDs; never changes.
_NAMESPACE = uuid.UUID("6f0f2d4e-7c55-5f0c-9a5e-1f6b6a1f6e0d")

#: A section shorter than this share of a chunk is kept with the one that follows it.
_MIN_SECTION_SHARE = 0.25


@dataclass(frozen=True)
class ChunkerSpec:
    """How documents are cut. Part of the spec: a change builds a new generation."""

    tokens: int
    overlap: int
    version: int = 2
    """Raised when this module cuts the same text differently."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of a document. `id` and `content_hash` do not depend on `position`."""

    id: str
    document_id: str
    position: int
    content_hash: str
    title: str
    uri: str
    text: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class Chunker:
    """Cuts documents with the embedder's own tokenizer, so that nothing is ever truncated."""

    def __init__(self, spec: ChunkerSpec, tokenizer: "Tokenizer") -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # The splitter counts without the special tokens that the model reads as well.
        tokens = spec.tokens - tokenizer.num_special_tokens_to_add(is_pair=False)
        overlap = min(spec.overlap, tokens - 1)
        self._tokenizer = tokenizer
        self._min_section = int(spec.tokens * _MIN_SECTION_SHARE)
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, tokens, overlap)
        self._text = TextSplitter.from_huggingface_tokenizer(tokenizer, tokens, overlap)
        self._parser = MarkdownIt()

    def chunks(self, document: Document, *, index: str, fingerprint: str) -> list[Chunk]:
        """Cut one document.

        Raises:
            DocumentError: no chunk holds any text.
        """
        seen: Counter[str] = Counter()
        chunks = []
        for position, text in enumerate(self._pieces(document)):
            content_hash = content_hash_of(text, document.title, document.uri, document.metadata)
            occurrence = seen[content_hash]
            seen[content_hash] += 1
            chunks.append(
                Chunk(
                    id=chunk_id(index, document.id, content_hash, occurrence, fingerprint),
                    document_id=document.id,
                    position=position,
                    content_hash=content_hash,
                    title=document.title,
                    uri=document.uri,
                    text=text,
                    metadata=document.metadata,
                )
            )
        if not chunks:
            raise DocumentError("holds no text that could be cut into chunks")
        return chunks

    def _pieces(self, document: Document) -> Iterator[str]:
        if document.format == "markdown":
            for section in self._sections(document.text):
                yield from self._markdown.chunks(section)
        else:
            yield from self._text.chunks(document.text)

    def _sections(self, text: str) -> Iterator[str]:
        """Text from heading to heading, tiny sections joined to the next one.

        Each join depends on the section alone, not on what came before it: an edit moves no
        boundary beyond its own section and the next.
        """
        # As the parser counts lines: splitlines() would also split at U+2028 and its like.
        lines = re.findall(r"[^\n]*\n|[^\n]+", text)
        starts = [
            token.map[0]
            for token in self._parser.parse(text)
            if token.type == "heading_open" and token.level == 0 and token.map and token.map[0]
        ]
        held = ""
        for start, end in zip([0, *starts], [*starts, len(lines)], strict=True):
            held += "".join(lines[start:end])
            if len(self._tokenizer.encode(held, add_special_tokens=False)) >= self._min_section:
                yield held
                held = ""
        if held:
            yield held


def chunk_id(
    index: str, document_id: str, content_hash: str, occurrence: int, fingerprint: str
) -> str:
    """UUIDv5 (RFC 9562) of a delimited key: ("12", "doc1") and ("2", "doc11") must differ."""
    key = json.dumps([index, document_id, content_hash, occurrence, fingerprint])
    return str(uuid.uuid5(_NAMESPACE, key))


def content_hash_of(text: str, title: str, uri: str, metadata: Mapping[str, str]) -> str:
    """What a stored chunk must hash to; covers everything a reader is shown."""
    shown = json.dumps([text, title, uri, sorted(metadata.items())])
    return hashlib.sha256(shown.encode()).hexdigest()
