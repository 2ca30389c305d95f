"""The embedder: which model, and what computes its vectors on this machine.

Belongs here: choosing. Does not belong here: a backend or a model's files (`embedders`), or judging
vectors (`indexing/embedding.py`).
"""

import logging
from functools import lru_cache
from pathlib import Path

import dagster as dg
from pydantic import Field

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.embedding import Embedder
from agent_pipelines.local import accelerators
from agent_pipelines.settings import EmbedderBackend, Settings
from resources.embedders import openvino
from resources.embedders.endpoint import EndpointEmbedder
from resources.embedders.model import find
from resources.embedders.openvino import NotConvertedError, OpenVinoEmbedder
from resources.embedders.pytorch import PytorchEmbedder

logger = logging.getLogger(__name__)


class EmbedderResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Turns text into vectors. Unset fields come from the settings."""

    model: str | None = Field(
        default=None,
        description="Hub name or folder; default: EMBEDDER_MODEL, else the packaged MiniLM.",
    )
    base_url: str | None = Field(
        default=None,
        description="An OpenAI-compatible /v1 that has the model loaded; default: "
        "EMBEDDER_BASE_URL, else vectors are computed here.",
    )
    api_key: str | None = Field(default=None, description="Default: EMBEDDER_API_KEY, else none.")

    def open(self, model: str | None = None) -> Embedder:
        """The embedder for an index that names a model, or for one that does not.

        Raises:
            UserError: the model is not to be had, or not from this backend or server.
            UnavailableError: the server does not answer.
        """
        settings = Settings()
        model = model or self.model or settings.embedder_model
        base_url = self.base_url or settings.embedder_base_url
        if base_url:
            return _at(base_url, self.api_key or settings.embedder_api_key, model)
        return _here(model, settings.embedder_backend, settings.cache_dir)


@lru_cache
def _at(base_url: str, api_key: str | None, model: str | None) -> Embedder:
    return EndpointEmbedder(find(model, weights=False), base_url, api_key)


@lru_cache
def _here(name: str | None, backend: EmbedderBackend, cache_dir: Path) -> Embedder:
    model = find(name, weights=True)
    if (backend if backend != "auto" else best_backend()) == "torch":
        return PytorchEmbedder(model, cache_dir)
    if not openvino.is_installed():
        raise UserError(
            "EMBEDDER_BACKEND is openvino, and that is not installed",
            remedy="install it with `uv sync --extra cpu`, or leave EMBEDDER_BACKEND to `auto`",
        )
    try:
        return OpenVinoEmbedder(model, openvino.obtain(model, cache_dir), cache_dir)
    except NotConvertedError as error:
        if backend != "auto":
            raise
        logger.warning("PyTorch computes the vectors, which takes longer: %s", error)
        return PytorchEmbedder(model, cache_dir)


def best_backend() -> EmbedderBackend:
    """What `auto` means here; decided without importing any of it, which would take seconds."""
    if accelerators.has_gpu() or accelerators.has_mps():
        return "torch"
    return "openvino" if openvino.is_installed() else "torch"
