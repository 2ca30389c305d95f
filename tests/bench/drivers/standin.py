"""An embedder that costs next to nothing, so that what is left is the contender's own cost.

Belongs here: the vectors, the same in every contender, and how they may be wrong. Does not belong
here: how each contender wants its embedder to look.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

DIMENSION = 384

#: An environment variable: what is wrong with the embedder. "raises" and "nan" happen to texts
#: that contain `SPOILT`; "other" is another model of the same dimension, for every text.
FAULT = "STAND_IN_FAULT"
SPOILT = "This sentence is edit 3 of"


def vectors(texts: Sequence[str], dimension: int = DIMENSION) -> Any:
    """Unit vectors made of each text's SHAKE-128: shape (len(texts), dimension), float32."""
    fault = os.environ.get(FAULT)
    spoilt = [number for number, text in enumerate(texts) if SPOILT in text]
    if fault == "raises" and spoilt:
        raise RuntimeError("the embedder has run out of memory")
    key = b"another model" if fault == "other" else b""
    raw = b"".join(hashlib.shake_128(key + text.encode()).digest(dimension) for text in texts)
    centred = np.frombuffer(raw, np.uint8).reshape(len(texts), dimension).astype(np.float32) - 127.5
    made = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    if fault == "nan":
        made[spoilt] = np.nan
    return made
