"""The golden vector: by which one sees that a backend, or the weights behind a name, has drifted.

Belongs here: the text and the measure. Does not belong here: what a drift means for a sync
(`vectors.py`) or for an index that is served (`health/`).
"""

import numpy as np

from agent_pipelines.indexing.embedding import Embedder, Vectors, embed_checked

#: The least cosine between two golden vectors that count as the same model's.
#:
#: Measured with MiniLM, above it lies what only computes differently: other batches, cores or
#: libraries (1.000000), bfloat16 (0.9999), float16 (0.9997). Below it lies what would mix two
#: meanings in one index: weights that are 3 % off (0.991), a prompt before each text (0.992),
#: PyTorch's 8-bit weights and activations (0.92), another pooling (0.48).
MIN_COSINE = 0.999

#: Never changes: what is stored is its vector. Rare words, digits and other scripts go through
#: every path of a tokenizer, and some hundred tokens through every position that matters.
GOLDEN_TEXT = (
    "The quokka's ledger was reconciled at 03:47 on 29 February 2024: 1,048,576 rows, 0 errors. "
    "Żółw czytał „Σωκράτης” über 東京 naïvely, while a floccinaucinihilipilification of all "
    "checksums (0xDEADBEEF, e3b0c442) went on. If replica 7 disagrees by more than 12.5 %, restart "
    "it; otherwise leave it alone and write down why."
)


def golden_vector(embedder: Embedder) -> Vectors:
    """The vector of the golden text: shape (dimension,).

    Raises:
        EmbeddingError: it is not a good vector.
    """
    vector: Vectors = embed_checked(embedder, [GOLDEN_TEXT])[0]
    return vector


def cosine(one: Vectors, other: Vectors) -> float:
    """Cosine of the angle between two vectors of shape (dimension,)."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
