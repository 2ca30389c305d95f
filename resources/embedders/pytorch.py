"""sentence-transformers: the reference, on CPU, CUDA or MPS.

Belongs here: loading a model once per process, computing vectors. Does not belong here: finding the
model (`model.py`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent_pipelines.indexing.embedding import Vectors
from agent_pipelines.local import accelerators
from resources.embedders import cpu
from resources.embedders.local import LocalEmbedder
from resources.embedders.model import USUAL_TOKENS

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

#: Padded tokens per core at once: half a second of MiniLM's work. With quiet cores 1,024 would be
#: 8 % quicker, but its threads wait for each other by spinning: on a busy machine less than this
#: costs twice the time.
_TOKENS_PER_CORE = 2_048

#: Padded tokens at once on a GPU: enough to fill one, and a gigabyte or two of its memory.
_GPU_PACK_TOKENS = 32_768


class PytorchEmbedder(LocalEmbedder["SentenceTransformer"]):
    """A local sentence-transformers model."""

    @property
    def pack_tokens(self) -> int:
        """The largest pack it likes."""
        on_gpu = accelerators.has_gpu() or accelerators.has_mps()
        return _GPU_PACK_TOKENS if on_gpu else _TOKENS_PER_CORE * cpu.cores()

    def _load(self) -> "SentenceTransformer":
        return load(self._model.folder)

    def _vectors(self, loaded: "SentenceTransformer", texts: Sequence[str]) -> Vectors:
        vectors = loaded.encode(
            list(texts), batch_size=len(texts), show_progress_bar=False, convert_to_numpy=True
        )
        return np.asarray(vectors, dtype=np.float32)

    def _longest(self, loaded: "SentenceTransformer") -> int:
        return longest(loaded)


def load(folder: Path, device: str | None = None) -> "SentenceTransformer":
    """The model in that folder, on ``device`` or on the best there is."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    # A bar per loaded tensor says nothing to anyone and breaks ours.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return SentenceTransformer(str(folder), device=device, local_files_only=True)


def longest(loaded: "SentenceTransformer") -> int:
    """Tokens of the longest input, special tokens included."""
    return int(loaded.max_seq_length or USUAL_TOKENS)
