"""An embedder that costs next to nothing, so that what is left is the contender's own cost.

Belongs here: the vectors, the same in every contender. Does not belong here: how each contender
wants its embedder to look.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

DIMENSION = 384


def vectors(texts: Sequence[str], dimension: int = DIMENSION) -> Any:
    """Unit vectors made of each text's SHAKE-128: shape (len(texts), dimension), float32."""
    raw = b"".join(hashlib.shake_128(text.encode()).digest(dimension) for text in texts)
    centred = np.frombuffer(raw, np.uint8).reshape(len(texts), dimension).astype(np.float32) - 127.5
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)
