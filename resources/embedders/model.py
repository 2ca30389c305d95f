"""A model as it lies on disk, and what is known of it without loading its weights.

Belongs here: finding its folder, its tokenizer, its digest, and its identity once a backend has
told it. Does not belong here: computing vectors.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.embedding import EmbedderIdentity, Vectors
from agent_pipelines.local.models import packaged_embedder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: What the packaged model is called, wherever its package was installed.
_PACKAGED = "all-MiniLM-L6-v2"

#: All that is fetched of a model whose weights somebody else has loaded.
_CONFIGURATION = ["config.json", "sentence_bert_config.json", "tokenizer.json"]

#: Its vector tells the dimension, and whether vectors have length 1.
PROBE = "a probe of the dimension and the length of vectors"

#: What a model reads that does not say how much it reads.
USUAL_TOKENS = 512


@dataclass(frozen=True)
class Model:
    """A sentence-transformers model, or only its configuration."""

    name: str
    folder: Path
    files: tuple[Path, ...]
    """What its digest covers."""
    names: frozenset[str]
    """What a server that has loaded it may call it."""

    def tokenizer(self) -> "Tokenizer":
        """A fresh copy of the model's tokenizer."""
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of weights and configuration; where weights are not seen, of the name instead."""
        digest = hashlib.sha256()
        if all(path.suffix == ".json" for path in self.files):
            digest.update(self.name.encode())
        for path in self.files:
            digest.update(path.relative_to(self.folder).as_posix().encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest input by its configuration, special tokens included."""
        found = (
            self._configuration("sentence_bert_config.json").get("max_seq_length"),
            self._configuration("config.json").get("max_position_embeddings"),
        )
        return next((int(value) for value in found if value), USUAL_TOKENS)

    def identified(self, probe: Vectors, max_tokens: int) -> EmbedderIdentity:
        """The identity, of what a backend tells: a vector of shape (dimension,) and its limit."""
        return EmbedderIdentity(
            name=self.name,
            digest=self.digest,
            dimension=probe.size,
            max_tokens=max_tokens,
            normalized=bool(abs(float(np.linalg.norm(probe)) - 1) < 1e-4),
        )

    def remembered(self, cache_dir: Path) -> EmbedderIdentity | None:
        """The identity that was remembered of these very files, so that nothing need be loaded."""
        try:
            told: dict[str, Any] = json.loads(self._memory(cache_dir).read_text())
        except FileNotFoundError:
            return None
        return EmbedderIdentity(**{**told, "name": self.name})

    def remember(self, identity: EmbedderIdentity, cache_dir: Path) -> None:
        """Keep it on disk, until a file of the model changes."""
        memory = self._memory(cache_dir)
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False) as partial:
            json.dump(asdict(identity), partial)
            os.fchmod(partial.fileno(), 0o644)  # other users may share the cache
        os.replace(partial.name, memory)

    def _configuration(self, name: str) -> dict[str, Any]:
        try:
            read: dict[str, Any] = json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return {}
        return read

    def _memory(self, cache_dir: Path) -> Path:
        stats = [
            [p.relative_to(self.folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns]
            for p in self.files
        ]
        key = hashlib.sha256(json.dumps([str(self.folder.resolve()), *stats]).encode()).hexdigest()
        return cache_dir / "embedders" / f"{key[:32]}.json"


def find(name: str | None, *, weights: bool) -> Model:
    """The packaged model (None), a folder, or a model of the hub, with or without its weights.

    Raises:
        UserError: it is neither a folder nor to be had from the hub, or lacks what is needed.
    """
    if name is None:
        return _in(packaged_embedder(), _PACKAGED, frozenset({_PACKAGED}))
    folder = Path(name).expanduser().absolute()
    if name.startswith((".", "/", "~")) or folder.exists():
        _require(folder, weights)
        return _in(folder, folder.name, frozenset({name, str(folder), folder.name}))
    folder = _from_hub(name, weights)
    _require(folder, weights)
    if weights:
        return _in(folder, name, frozenset({name}))
    # Not whatever else this machine may have of it: elsewhere it would be another identity.
    files = tuple(folder / file for file in _CONFIGURATION if (folder / file).is_file())
    return Model(name, folder, files, frozenset({name}))


def _in(folder: Path, name: str, names: frozenset[str]) -> Model:
    # Where both are there, safetensors are what is loaded.
    weights = [*folder.rglob("*.safetensors")] or [*folder.rglob("*.bin")]
    files = tuple(sorted([*weights, *folder.rglob("*.json")]))
    return Model(name, folder, files, names | {str(folder)})


def _require(folder: Path, weights: bool) -> None:
    for file in ("modules.json", "tokenizer.json") if weights else ("tokenizer.json",):
        if not (folder / file).is_file():
            raise UserError(
                f"embedder model {str(folder)!r} is not a sentence-transformers folder: it has no "
                f"{file}",
                remedy="name a folder that has one, or a model of the hub, in EMBEDDER_MODEL or "
                "the index's `embedder`",
            )


def _from_hub(name: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(
            snapshot_download(name, ignore_patterns=["*.onnx", "*.bin", "openvino/*"])
            if weights
            else snapshot_download(name, allow_patterns=_CONFIGURATION)
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"embedder model {name!r} cannot be had from the hub: {error}",
            remedy="check the name and the network, or set EMBEDDER_MODEL to a local folder",
        ) from error
