"""sentence-transformers: the reference, on CPU, CUDA or MPS.

Belongs here: loading a model once per process, computing vectors. Does not belong here: finding the
model (`model.py`).
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent_pipelines.indexing.embedding import EmbedderIdentity, Vectors
from agent_pipelines.local import accelerators
from resources.embedders import cpu
from resources.embedders.model import PROBE, USUAL_TOKENS, Model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

#: Padded tokens per core at once: half a second of MiniLM's work. With quiet cores 1,024 would be
#: 8 % quicker, but its threads wait for each other by spinning: on a busy machine less than this
#: costs twice the time.
_TOKENS_PER_CORE = 2_048

#: Padded tokens at once on a GPU: enough to fill one, and a gigabyte or two of its memory.
_GPU_PACK_TOKENS = 32_768


class PytorchEmbedder:
    """A local sentence-transformers model. Its weights are loaded at the first `embed`."""

    def __init__(self, model: Model, cache_dir: Path) -> None:
        self._model = model
        self._cache_dir = cache_dir
        self._loaded: SentenceTransformer | None = None
        self._identity: EmbedderIdentity | None = None
        # One at a time: a model fills every core, and its tokenizer is not to be shared.
        self._turn = threading.Lock()

    @property
    def identity(self) -> EmbedderIdentity:
        """Who this embedder is; remembered on disk, so that a no-op sync loads no weights."""
        if self._identity is None:
            self._identity = self._model.remembered(self._cache_dir) or self._identify()
        return self._identity

    @property
    def pack_tokens(self) -> int:
        """The largest pack it likes."""
        on_gpu = accelerators.has_gpu() or accelerators.has_mps()
        return _GPU_PACK_TOKENS if on_gpu else _TOKENS_PER_CORE * cpu.cores()

    def tokenizer(self) -> "Tokenizer":
        """A fresh copy of the model's tokenizer, without loading the weights."""
        return self._model.tokenizer()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector per text: shape (len(texts), dimension), float32."""
        with self._turn:
            if self._loaded is None:
                self._loaded = load(self._model.folder)
            vectors = self._loaded.encode(
                list(texts), batch_size=len(texts), show_progress_bar=False, convert_to_numpy=True
            )
        return np.asarray(vectors, dtype=np.float32)

    def _identify(self) -> EmbedderIdentity:
        probe = self.embed([PROBE])[0]
        assert self._loaded is not None
        identity = self._model.identified(probe, longest(self._loaded))
        self._model.remember(identity, self._cache_dir)
        return identity


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
