"""`agent-pipelines api` as a process, with the agents it serves.

Belongs here: an assets folder, the process, and what it tells of itself. Does not belong here: the
model and the tools behind it (`scripted_model.py`, `shell_server.py`), or what is expected.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, delete, insert

from agent_pipelines.health.signals import catalogue
from agent_pipelines.state import tables
from tests.loopback import free_port
from tests.processes import until
from tests.scripted_model import MODEL

ROOT = Path(__file__).parents[1]

TOOLS = """\
type: agent_pipelines.components.ToolServerComponent
attributes:
  url: URL
  breaker: {failures: 1, open_seconds: 60}
"""

CLERK = """\
type: agent_pipelines.components.AgentComponent
attributes:
  description: Looks things up.
  instructions: Answer.
  tools: [echo, wait_for]
  tool_servers: [shelled]
"""

INDEX = """\
type: agent_pipelines.components.IndexComponent
attributes:
  source: {kind: files, url: .}
"""

READER = """\
type: agent_pipelines.components.AgentComponent
attributes:
  instructions: Answer.
  index: docs
  on_stale_index: POLICY
"""


def write_assets(folder: Path, tools_url: str) -> Path:
    """Agents: `clerk`, with tools; `careful` and `bold`, who read the index `docs`."""
    assets = folder / "assets"
    for name, yaml in {
        "shelled": TOOLS.replace("URL", tools_url),
        "clerk": CLERK,
        "docs": INDEX,
        "careful": READER.replace("POLICY", "block"),
        "bold": READER.replace("POLICY", "label"),
    }.items():
        (assets / name).mkdir(parents=True)
        (assets / name / "defs.yaml").write_text(yaml)
    return assets


class Api:
    """The process, its address and its words."""

    def __init__(self, folder: Path, assets: Path, model_url: str, **settings: object) -> None:
        self.port, self.probes_port = free_port(), free_port()
        self.folder = folder
        self.scheme = "https" if "tls_cert" in settings else "http"
        self._settings = {f"API_{name.upper()}": str(value) for name, value in settings.items()}
        self._environment = {
            "AGENT_PIPELINES_STATE_DIR": str(folder),
            "AGENT_PIPELINES_ASSETS": str(assets),
            "LLM_BASE_URL": model_url,
            "LLM_MODEL": MODEL,
        }
        self.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def database(self) -> str:
        return f"sqlite:///{self.folder / 'state.db'}"

    def start(self) -> None:
        """Also once more, after its end."""
        with (self.folder / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "agent_pipelines.cli", "api"),
                    *("--port", str(self.port), "--probes-port", str(self.probes_port)),
                ],
                cwd=ROOT,
                env={
                    **os.environ,
                    **self._environment,
                    **self._settings,
                    "PYTHONPATH": str(ROOT),
                },
                stderr=stderr,
            )
        until(self._up, 60, "the API's health")

    def _up(self) -> bool:
        assert self.process.poll() is None, self.stderr
        with contextlib.suppress(httpx2.TransportError):
            return self.probe("/health").is_success
        return False

    def probe(self, path: str) -> httpx2.Response:
        """What is served in plain HTTP, on the second port."""
        return httpx2.get(f"http://127.0.0.1:{self.probes_port}{path}", timeout=10)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all series with these labels."""
        families = text_string_to_metric_families(self.probe("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def client(self, **more: Any) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=30, **more)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=40)

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()


@contextlib.contextmanager
def serving(folder: Path, assets: Path, model_url: str, **settings: object) -> Iterator[Api]:
    """The API with settings such as ``max_concurrent``, killed with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    api = Api(folder, assets, model_url, **settings)
    try:
        yield api
    finally:
        api.process.kill()
        api.process.wait()


def commit(engine: Engine, index: str, sequence: int) -> None:
    """A snapshot, as a sync leaves it."""
    now = datetime.now(UTC)
    counts = {"documents": 1, "failed_documents": 0, "chunks": 1}
    with engine.begin() as connection:
        connection.execute(
            insert(tables.snapshots).values(
                index_name=index,
                sequence=sequence,
                collection="Docs",
                source_digest="",
                manifest_digest="",
                listed_at=now,
                committed_at=now,
                **counts,
            )
        )


def signal_readings(engine: Engine, index: str, **states: str) -> None:
    """What an evaluator has recorded just now: all true but ``states``."""
    now = datetime.now(UTC)
    with engine.begin() as connection:
        connection.execute(delete(tables.signals))
        for each in catalogue():
            connection.execute(
                insert(tables.signals).values(
                    subject=index,
                    name=each.name,
                    state=states.get(each.name, "true"),
                    since=now,
                    evaluated_at=now,
                    observed="as it is",
                    expected="",
                    evidence=[],
                )
            )
