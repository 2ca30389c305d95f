"""What embedders that compute here have in common: a model on disk, loaded when it is first asked.

Belongs here: loading once, one call at a time, remembering who it is. Does not belong here: a
backend (`pytorch.py`, `openvino.py`) or the model's files (`model.py`).
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from agent_pipelines.indexing.embedding import EmbedderIdentity, Vectors
from resources.embedders.model import PROBE, Model

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Loaded = TypeVar("Loaded")


class LocalEmbedder(ABC, Generic[Loaded]):
    """A model whose weights are loaded at the first `embed`; `Loaded` is what that gives."""

    def __init__(self, model: Model, cache_dir: Path) -> None:
        self._model = model
        self._cache_dir = cache_dir
        self._loaded: Loaded | None = None
        self._identity: EmbedderIdentity | None = None
        # One at a time: a model fills every core, and its tokenizer is not to be shared.
        self._turn = threading.Lock()

    @property
    def identity(self) -> EmbedderIdentity:
        """Who this embedder is, the same with any backend; remembered on disk, so that a no-op
        sync loads no weights.
        """
        if self._identity is None:
            self._identity = self._model.remembered(self._cache_dir) or self._identify()
        return self._identity

    @property
    @abstractmethod
    def pack_tokens(self) -> int:
        """The largest pack it likes."""

    def tokenizer(self) -> "Tokenizer":
        """A fresh copy of the model's tokenizer, without loading the weights."""
        return self._model.tokenizer()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector per text: shape (len(texts), dimension), float32."""
        with self._turn:
            if self._loaded is None:
                self._loaded = self._load()
            return self._vectors(self._loaded, texts)

    def _identify(self) -> EmbedderIdentity:
        probe = self.embed([PROBE])[0]
        assert self._loaded is not None
        identity = self._model.identified(probe, self._longest(self._loaded))
        self._model.remember(identity, self._cache_dir)
        return identity

    @abstractmethod
    def _load(self) -> Loaded: ...

    @abstractmethod
    def _vectors(self, loaded: Loaded, texts: Sequence[str]) -> Vectors: ...

    @abstractmethod
    def _longest(self, loaded: Loaded) -> int:
        """Tokens of the longest input, special tokens included."""
