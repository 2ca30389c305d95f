"""Fixtures shared by all suites: one real Weaviate per session, the real embedder, fresh folders.

Belongs here: what costs seconds to start and can be shared without one test seeing another.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_pipelines.indexing.embedding import Embedder
from agent_pipelines.local import models, weaviate
from agent_pipelines.local.parts import Parts
from agent_pipelines.settings import Settings
from resources.embedder import EmbedderResource
from resources.embedders import openvino
from resources.embedders.model import find
from resources.weaviate import WeaviateResource, WeaviateStore
from tests.cluster import binaries

#: Variables that would point a test at somebody's own Weaviate, database or model server.
_ADDRESSES = (
    "WEAVIATE_URL",
    "WEAVIATE_GRPC",
    "WEAVIATE_API_KEY",
    "STATE_DATABASE_URL",
    "LLM_BASE_URL",
    "LLM_MODEL",
    "EMBEDDER_MODEL",
    "EMBEDDER_BACKEND",
    "EMBEDDER_BASE_URL",
    "EMBEDDER_API_KEY",
    "SEARCH_TOOL_URL",
    "DAGSTER_HOME",
    "AGENT_PIPELINES_ASSETS",
    "AGENT_PIPELINES_STATE_DIR",
)

#: Its tests need a Kubernetes that is built from source: not for those who run other tests.
_CLUSTER = Path(__file__).parent / "cluster"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Obtain once what takes minutes on a fresh machine, before any test's own time runs."""
    if hasattr(session.config, "workerinput") or session.config.option.collectonly:
        return
    # Tests start this program a hundred times; without bytecode each start takes twice as long.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    cache_dir = Settings().cache_dir
    weaviate.obtain(cache_dir, print)
    models.packaged_llm(cache_dir, print)
    if openvino.is_installed():
        openvino.obtain(find(None, weights=True), cache_dir)
    asked = [Path(argument.partition("::")[0]).resolve() for argument in session.config.args]
    if any(_CLUSTER.is_relative_to(path) or path.is_relative_to(_CLUSTER) for path in asked):
        binaries.obtain()


@pytest.fixture(scope="session", autouse=True)
def only_our_own_addresses() -> None:
    """Tests talk to what they start, never to what the developer's shell points at."""
    for name in _ADDRESSES:
        os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_works() -> None:
    """A shell's background job ignores SIGINT, and so would every process that tests interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def weaviate_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real Weaviate for the whole session: its `url`, `grpc` and `api_key`."""
    state_dir = tmp_path_factory.mktemp("weaviate")
    binary = weaviate.obtain(Settings().cache_dir, print)
    key = weaviate.api_key(state_dir)
    with Parts(state_dir) as parts:
        addresses = parts.ensure("weaviate", lambda: weaviate.launch(binary, state_dir, key))
        yield {**addresses, "api_key": key}


@pytest.fixture
def weaviate_resource(weaviate_url: dict[str, str]) -> WeaviateResource:
    """The session's Weaviate as a Dagster resource."""
    return WeaviateResource(**weaviate_url)


@pytest.fixture
def store(weaviate_resource: WeaviateResource) -> Iterator[WeaviateStore]:
    """An open connection to the session's Weaviate."""
    with weaviate_resource.connect() as opened:
        yield opened


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """The packaged MiniLM, loaded once."""
    return EmbedderResource().open()


@pytest.fixture
def state_url(tmp_path: Path) -> str:
    """A fresh SQLite state database."""
    return f"sqlite:///{tmp_path / 'state.db'}"
