"""sentence-transformers behind the engine's `Embedder` protocol.

Belongs here: finding a model, loading it once per process, computing vectors. Does not belong
here: judging vectors (`indexing/embedding.py`).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
from pydantic import Field

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.embedding import EmbedderIdentity, Vectors
from agent_pipelines.local.models import packaged_embedder
from agent_pipelines.settings import Settings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

#: What the packaged model is called, wherever its package was installed.
_PACKAGED = "all-MiniLM-L6-v2"

#: Texts per call of the model; enough to fill two cores, small enough to bound memory.
_BATCH = 32


class EmbedderResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Turns text into vectors."""

    model: str | None = Field(
        default=None,
        description="Hub name or folder; default: EMBEDDER_MODEL, else the packaged MiniLM.",
    )

    def open(self, model: str | None = None) -> "SentenceTransformerEmbedder":
        """The embedder for an index that names a model, or for one that does not.

        Raises:
            UserError: the model is neither a folder nor to be had from the hub.
        """
        settings = Settings()
        return _open(model or self.model or settings.embedder_model, settings.cache_dir)


@lru_cache
def _open(model: str | None, cache_dir: Path) -> "SentenceTransformerEmbedder":
    if model is None:
        return SentenceTransformerEmbedder(_PACKAGED, packaged_embedder(), cache_dir)
    folder = Path(model).expanduser()
    looks_like_path = model.startswith((".", "/", "~")) or folder.exists()
    return SentenceTransformerEmbedder(
        folder.name if looks_like_path else model,
        _existing(folder) if looks_like_path else _from_hub(model),
        cache_dir,
    )


def _existing(folder: Path) -> Path:
    if not (folder / "modules.json").is_file():
        raise UserError(
            f"embedder model {str(folder)!r} is not a sentence-transformers folder",
            remedy="name a folder with a modules.json, or a model of the hub, in EMBEDDER_MODEL "
            "or the index's `embedder`",
        )
    return folder


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(snapshot_download(model, ignore_patterns=["*.onnx", "*.bin", "openvino/*"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"embedder model {model!r} cannot be had from the hub: {error}",
            remedy="check the name and the network, or set EMBEDDER_MODEL to a local folder",
        ) from error


class SentenceTransformerEmbedder:
    """A local sentence-transformers model. Its weights are loaded at the first `embed`."""

    def __init__(self, name: str, folder: Path, cache_dir: Path) -> None:
        self._name = name
        self._folder = folder
        self._cache_dir = cache_dir
        self._model: SentenceTransformer | None = None
        self._identity: EmbedderIdentity | None = None

    @property
    def identity(self) -> EmbedderIdentity:
        """Who this embedder is; remembered on disk, so that a no-op sync loads no weights."""
        if self._identity is None:
            remembered = self._cache_dir / "embedders" / f"{_stat_key(self._folder)}.json"
            if remembered.is_file():
                values: dict[str, Any] = json.loads(remembered.read_text())
                self._identity = EmbedderIdentity(**values)
            else:
                self._identity = self._identify()
                remembered.parent.mkdir(parents=True, exist_ok=True)
                partial = remembered.with_suffix(".partial")
                partial.write_text(json.dumps(asdict(self._identity)))
                partial.replace(remembered)
        return self._identity

    def tokenizer(self) -> "Tokenizer":
        """A fresh copy of the model's tokenizer, without loading the weights."""
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self._folder / "tokenizer.json"))

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector per text: shape (len(texts), dimension), float32."""
        vectors = self._loaded().encode(
            list(texts), batch_size=_BATCH, show_progress_bar=False, convert_to_numpy=True
        )
        return np.asarray(vectors, dtype=np.float32)

    def _loaded(self) -> "SentenceTransformer":
        if self._model is None:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging

            # A bar per loaded tensor says nothing to anyone and breaks ours.
            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            self._model = SentenceTransformer(str(self._folder), local_files_only=True)
        return self._model

    def _identify(self) -> EmbedderIdentity:
        model = self._loaded()
        probe = self.embed(["a probe of the dimension and the length of vectors"])[0]
        return EmbedderIdentity(
            name=self._name,
            digest=_weights_digest(self._folder),
            dimension=int(probe.size),
            max_tokens=int(model.max_seq_length or 512),
            normalized=bool(abs(float(np.linalg.norm(probe)) - 1) < 1e-4),
        )


def _weights(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json") and p.is_file()
    )


def _weights_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in _weights(folder):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _stat_key(folder: Path) -> str:
    stats = [
        (p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns)
        for p in _weights(folder)
    ]
    return hashlib.sha256(
        json.dumps([str(folder.resolve()), *map(list, stats)]).encode()
    ).hexdigest()[:32]
