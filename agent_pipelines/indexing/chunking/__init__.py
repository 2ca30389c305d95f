"""Document → chunks: token-bounded pieces whose boundaries survive edits.

Belongs here: what a chunk is, and what its id and hash are made of; beside this file, where text
is cut. Does not belong here: the tokenizer (it is the embedder's own) or anything about vectors.
"""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent_pipelines.indexing.chunking.cutting import Cutter
from agent_pipelines.indexing.sources import Document, DocumentError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Names our chunk ids among all UUIDs; never changes.
_NAMESPACE = uuid.UUID("6f0f2d4e-7c55-5f0c-9a5e-1f6b6a1f6e0d")


@dataclass(frozen=True)
class ChunkerSpec:
    """How documents are cut. Part of the spec: a change builds a new generation."""

    tokens: int
    overlap: int
    version: int = 3
    """Raised when the same text is cut differently."""


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
        # The model reads the special tokens as well.
        tokens = spec.tokens - tokenizer.num_special_tokens_to_add(is_pair=False)
        self._cutter = Cutter(tokens, spec.overlap, tokenizer)

    def chunks(self, document: Document, *, index: str, fingerprint: str) -> list[Chunk]:
        """Cut one document.

        Raises:
            DocumentError: no chunk holds any text.
        """
        seen: Counter[str] = Counter()
        chunks = []
        for position, text in enumerate(self._cutter.cut(document.text, document.format)):
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
