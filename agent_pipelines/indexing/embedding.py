"""Text → vectors, as the engine sees it.

Belongs here: the protocol of an embedder and what every vector must satisfy. Does not belong
here: a backend that computes vectors (`resources/embedder.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
    """SHA-256 of the weights, or the revision where weights cannot be seen (an endpoint)."""
    dimension: int
    max_tokens: int
    """Longest input the model reads, special tokens included."""
    normalized: bool
    """Whether every vector has length 1."""


class Embedder(Protocol):
    """Computes vectors. Loading the model may be put off until the first `embed`."""

    @property
    def identity(self) -> EmbedderIdentity: ...

    def tokenizer(self) -> "Tokenizer":
        """The model's own tokenizer, a fresh copy that the caller may configure."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector per text: shape (len(texts), dimension)."""
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


def embed_checked(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Embed, and refuse anything the store would accept without complaint.

    Raises:
        EmbeddingError: a vector is missing, not finite, zero, or of the wrong size or length.
    """
    vectors = embedder.embed(texts)
    if len(vectors) != len(texts):
        raise EmbeddingError(f"{len(texts)} texts gave {len(vectors)} vectors")
    for text, vector in zip(texts, vectors, strict=True):
        if wrong := flaw(vector, embedder.identity):
            raise EmbeddingError(f"the vector of {text[:60]!r} {wrong}")
    return vectors
