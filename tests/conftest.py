"""Fixtures shared by all suites: one real Weaviate per session, the real embedder, fresh folders.

Belongs here: what costs seconds to start and can be shared without one test seeing another.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from _pytest.terminal import TerminalReporter
from hypothesis import HealthCheck, settings

from agent_pipelines.indexing.embedding import Embedder
from agent_pipelines.local import models, weaviate
from agent_pipelines.local.parts import Launch, Parts
from agent_pipelines.settings import Settings
from resources.embedder import EmbedderResource
from resources.embedders import openvino
from resources.embedders.model import find
from resources.weaviate import WeaviateResource, WeaviateStore
from tests.cluster import binaries

# How long an example takes is the machine's affair: nothing of a test fails for it.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

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
    "SEARCH_TOOL_CA",
    "SEARCH_TOOL_CERT",
    "SEARCH_TOOL_KEY",
    "SEARCH_TOOL_TOKEN",
    "DAGSTER_HOME",
    "AGENT_PIPELINES_ASSETS",
    "AGENT_PIPELINES_STATE_DIR",
)

#: Its tests need a Kubernetes that is built from source: not for those who run other tests.
_CLUSTER = Path(__file__).parent / "cluster"


class Telling:
    """Says a failure when it happens, and what was running when the run was interrupted.

    A run that never ends, or is ended from outside, has no summary.
    """

    def __init__(self, terminal: TerminalReporter) -> None:
        self._terminal = terminal
        self._running: dict[str, None] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running[nodeid] = None

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.pop(nodeid, None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            last = report.longreprtext.strip().rpartition("\n")[2]
            self._terminal.write_line(f"\n{report.when} of {report.nodeid} failed: {last}")

    def pytest_keyboard_interrupt(self) -> None:
        for nodeid in self._running:
            self._terminal.write_line(f"\nwas running: {nodeid}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Telling(terminal))


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
def everything_of_anyio() -> None:
    """Its parts are imported when first used: by then beside threads that parse as well.

    pytest rewrites what brings a plugin, as anyio does, and Python 3.11 counts the depth of all
    parsers of a process in one place: two at once end in a SystemError ("AST constructor recursion
    depth mismatch"). A traceback that is logged is a parser too.
    """
    for name in dir(anyio):
        getattr(anyio, name)


@pytest.fixture(scope="session", autouse=True)
def only_our_own_addresses(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests talk to what they start, never to what the developer's shell points at; and write into
    folders of their own, never into the checkout's."""
    for name in _ADDRESSES:
        os.environ.pop(name, None)
    os.environ["AGENT_PIPELINES_STATE_DIR"] = str(tmp_path_factory.mktemp("state"))


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

        def launch() -> Launch:
            ours = weaviate.launch(binary, state_dir, key)
            # With its own MCP server: somebody else's tool server, for our client.
            return replace(ours, env={**ours.env, "MCP_SERVER_ENABLED": "true"})

        yield {**parts.ensure("weaviate", launch), "api_key": key}


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
