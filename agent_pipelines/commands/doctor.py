"""`doctor`: can everything work here? One line per thing, each with its remedy.

Belongs here: looking at environment and configuration. Starts nothing and changes nothing but a
probe file in the folders it must be able to write.
"""

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent_pipelines.agents.tasks.reading import digest_of
from agent_pipelines.components.llm import LlmComponent
from agent_pipelines.components.llm_claim import need_of, plan_of, shape_of
from agent_pipelines.errors import UserError
from agent_pipelines.loading import load_assets
from agent_pipelines.local import models, weaviate
from agent_pipelines.local.parts import find
from agent_pipelines.settings import Settings

#: Below this much free disk a build or a batch of vectors may not fit.
_ENOUGH_DISK_GB = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` is set where it is not as it should be."""

    subject: str
    observed: str
    remedy: str | None = None

    @property
    def ok(self) -> bool:
        return self.remedy is None


def examine(settings: Settings, assets: Path) -> list[Finding]:
    """Look at everything."""
    return [
        Finding("python", sys.version.split()[0]),
        _folder("state directory", settings.state_dir, "AGENT_PIPELINES_STATE_DIR"),
        _folder("cache directory", settings.cache_dir, "AGENT_PIPELINES_CACHE_DIR"),
        *_attempt("state database", lambda: _state_database(settings)),
        _weaviate(settings),
        *_attempt("embedder", lambda: _embedder(settings)),
        *_attempt("model server", lambda: _model_server(settings, assets)),
        *_assets(assets),
    ]


def _attempt(subject: str, look: Callable[[], str]) -> Iterator[Finding]:
    try:
        yield Finding(subject, look())
    except UserError as error:
        yield Finding(subject, error.message, error.remedy)


def _folder(subject: str, folder: Path, variable: str) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").write_bytes(b"")
        free = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        return Finding(subject, str(error), f"set {variable} to a folder that can be written")
    remedy = None
    if free < _ENOUGH_DISK_GB:
        remedy = f"free some disk, or set {variable} to a folder on another one"
    return Finding(subject, f"{folder}, {free:.0f} GB free", remedy)


def _state_database(settings: Settings) -> str:
    from agent_pipelines.state.engine import open_engine

    open_engine(settings.database_url).dispose()
    return settings.database_url.split("@")[-1]


def _weaviate(settings: Settings) -> Finding:
    if settings.weaviate_url:
        from resources.weaviate import WeaviateResource

        try:
            with WeaviateResource().connect() as store:
                return Finding(
                    "weaviate", f"{settings.weaviate_url}, {len(store.collections())} collections"
                )
        except UserError as error:
            return Finding("weaviate", error.message, error.remedy)
    binary = settings.cache_dir / "weaviate" / weaviate.VERSION / "weaviate"
    running = find(settings.state_dir, "weaviate")
    if running:
        return Finding("weaviate", f"embedded, running at {running.addresses['url']}")
    return Finding(
        "weaviate",
        f"embedded, {binary}" if binary.exists() else "embedded; the first command will obtain it",
    )


def _embedder(settings: Settings) -> str:
    from resources.embedder import EmbedderResource, best_backend

    if settings.embedder_base_url:
        served = EmbedderResource().open().identity
        return f"{settings.embedder_base_url}, model {served.name}"
    backend = settings.embedder_backend
    by = best_backend() if backend == "auto" else backend
    if settings.embedder_model is None:
        return f"packaged, {models.packaged_embedder()}, by {by}"
    EmbedderResource().open()
    return f"{settings.embedder_model}, by {by}"


def _model_server(settings: Settings, assets: Path) -> str:
    if settings.llm_base_url:
        if not urlsplit(settings.llm_base_url).hostname:
            raise UserError(
                f"LLM_BASE_URL {settings.llm_base_url!r} is not a URL",
                remedy="write it like http://localhost:8000/v1",
            )
        from resources.llm import LlmResource

        endpoint = LlmResource().endpoint()
        return f"{endpoint.base_url}, model {endpoint.model}"
    if importlib.util.find_spec("vllm") is None:
        if not _is_anybody_s(assets):
            return "none; every agent here names its own"
        raise UserError(
            "vLLM is not installed, so agents cannot run; indexes can",
            remedy="`uv sync --extra cpu` or `--extra gpu` on Linux, or set LLM_BASE_URL to any "
            "OpenAI-compatible server",
        )
    if settings.llm_model:
        models.check_llm(settings.llm_model)
    model = settings.llm_model or "the packaged SmolLM2-135M (a smoke test, not an assistant)"
    return f"embedded vLLM with {model}"


def _claim(llm: LlmComponent) -> str:
    tiers = plan_of(llm, shape_of(llm), need_of(llm)).tiers
    return f"{llm.template}: {tiers[0]} at first, {len(tiers)} alternatives in all"


def _is_anybody_s(assets: Path) -> bool:
    """Whether some agent would use the embedded vLLM, as far as can be told."""
    try:
        loaded = load_assets(assets)
    except UserError:
        return True
    return not loaded.agents or loaded.embedded_llm(loaded.agents)


def _assets(folder: Path) -> Iterator[Finding]:
    try:
        loaded = load_assets(folder)
    except UserError as error:
        yield Finding("assets", error.message, error.remedy)
        return
    for name, reason in loaded.broken.items():
        yield Finding(f"assets/{name}", reason, f"correct or remove {folder / name}")
    for name, index in loaded.indexes.items():
        yield from _attempt(f"index {name}", lambda i=index: i.source.check() or "source reachable")  # type: ignore[misc]
    for name, server in loaded.tool_servers.items():
        yield from _attempt(f"tool server {name}", server.check)
    for name, llm in loaded.llms.items():
        if not llm.embedded or Settings().llm_base_url:  # else it is the model server above
            yield from _attempt(f"llm {name}", llm.check)
        if llm.claim is not None:
            yield from _attempt(f"claim of llm {name}", lambda m=llm: _claim(m))  # type: ignore[misc]
    for name, agent in loaded.agents.items():
        yield from _attempt(
            f"agent {name}",
            lambda a=agent: f"{digest_of(a.tasks()).count} tasks",  # type: ignore[misc]
        )
