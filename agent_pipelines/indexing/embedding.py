"""Text → vectors, as the engine sees it.

Belongs here: the protocol of an embedder, which texts it gets together, and what every vector must
satisfy. Does not belong here: a backend that computes vectors (`resources/embedders`).
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Vectors of floats: shape (texts, dimension), float32.
Vectors = NDArray[np.float32]

#: How far a unit vector's length may be from 1 in float32.
NORM_TOLERANCE = 1e-3


class EmbeddingError(Exception):
    """The embedder returned something that is not one good vector per text."""


@dataclass(frozen=True)
class EmbedderIdentity:
    """Everything about an embedder that decides what its vectors mean. Not the backend."""

    name: str
    digest: str
    """SHA-256 of the weights; of name and configuration where they cannot be seen (an endpoint)."""
    dimension: int
    max_tokens: int
    """Longest input the model reads, special tokens included."""
    normalized: bool
    """Whether every vector has length 1."""


class Embedder(Protocol, Hashable):
    """Computes vectors. Loading the model may be put off until the first `embed`."""

    @property
    def identity(self) -> EmbedderIdentity: ...

    @property
    def pack_tokens(self) -> int:
        """The largest pack it likes in one `embed`: texts × longest text, in tokens."""
        ...

    def tokenizer(self) -> "Tokenizer":
        """The model's own tokenizer, a fresh copy that the caller may configure."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector per text, of which there is at least one: shape (len(texts), dimension).

        All are computed at once; a text longer than the model reads counts up to there.
        """
        ...


def flaw(vector: Vectors, identity: EmbedderIdentity) -> str | None:
    """What is wrong with one vector of shape (dimension,), or None."""
    if vector.shape != (identity.dimension,):
        return f"has {vector.size} dimensions instead of {identity.dimension}"
    if not np.isfinite(vector).all():
        return "is not finite"
    norm = float(np.linalg.norm(vector))
    if norm == 0:
        return "is zero"
    if identity.normalized and abs(norm - 1) > NORM_TOLERANCE:
        return f"has length {norm:.4f} instead of 1"
    return None


def packs(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Which texts are embedded together, by their index, when padded to the longest among them.

    Texts of like length share a pack, so that little of it is padding. A pack's count × longest is
    within the budget, but a text longer than that is a pack of its own. Longest first: what does
    not fit into memory fails at once, and not after an hour.
    """
    pack: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if pack and (len(pack) + 1) * lengths[pack[0]] > budget:
            yield pack
            pack = []
        pack.append(index)
    if pack:
        yield pack


def embed_checked(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Embed in packs, and refuse anything the store would accept without complaint.

    Returns the vectors in the order of the texts: shape (len(texts), dimension).

    Raises:
        EmbeddingError: a vector is missing, not finite, zero, or of the wrong size or length.
    """
    identity = embedder.identity
    embedded = np.empty((len(texts), identity.dimension), np.float32)
    # The model's own call counts them again: that is 2 % of what a MiniLM costs on a CPU.
    lengths = [len(e) for e in _measure(embedder).encode_batch_fast(list(texts))]
    for pack in packs(lengths, embedder.pack_tokens):
        vectors = embedder.embed([texts[index] for index in pack])
        if len(vectors) != len(pack):
            raise EmbeddingError(f"{len(pack)} texts gave {len(vectors)} vectors")
        for index, vector in zip(pack, vectors, strict=True):
            if wrong := flaw(vector, identity):
                raise EmbeddingError(f"the vector of {texts[index][:60]!r} {wrong}")
            embedded[index] = vector
    return embedded


@lru_cache(maxsize=16)
def _measure(embedder: Embedder) -> "Tokenizer":
    """What counts tokens as the model reads them; loading it takes as long as some queries."""
    tokenizer = embedder.tokenizer()
    tokenizer.no_padding()
    tokenizer.enable_truncation(embedder.identity.max_tokens)
    return tokenizer
