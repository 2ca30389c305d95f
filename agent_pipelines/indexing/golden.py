"""The golden vector: by which one sees that a backend, or the weights behind a name, has drifted.

Belongs here: the text and the measure. Does not belong here: what a drift means for a sync
(`vectors.py`) or for an index that is served (`health/`).
"""

import numpy as np

from agent_pipelines.indexing.embedding import Embedder, Vectors, embed_checked

#: Backends of one model differ in the fifth decimal; other weights in the first.
MIN_COSINE = 0.999

GOLDEN_TEXT = "golden"


def golden_vector(embedder: Embedder) -> Vectors:
    """The vector of the golden text: shape (dimension,)."""
    vector: Vectors = embed_checked(embedder, [GOLDEN_TEXT])[0]
    return vector


def cosine(one: Vectors, other: Vectors) -> float:
    """Cosine of the angle between two vectors of shape (dimension,)."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
