"""Every panel of every dashboard shows something: a real Prometheus scrapes what runs, under load.

The hardware panels alone see recorded samples: no GPU and no dcgm-exporter is here.
"""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agent_pipelines.dashboards.__main__ import FOLDER, ROOT, files
from agent_pipelines.local import ports
from agent_pipelines.local.parts import Part, addresses, find
from tests import processes
from tests.certificates import Authority
from tests.processes import until
from tests.prometheus import Prometheus, prometheus

_INDEX = """\
type: agent_pipelines.components.IndexComponent
attributes:
  description: What the people on call know.
  source: {kind: files, url: ../../documents}
"""

_AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes:
  description: Answers the people on call.
  index: docs
  instructions: Answer in one sentence, using only what the search found.
  tool_calls: structured
  tools: [search]
  bound_arguments:
    search: {query: "{question}", limit: 1, where: [], by: words and meaning}
  output_schema:
    type: object
    properties: {answer: {type: string, maxLength: 60}}
    required: [answer]
  limits: {turns: 2, tool_calls: 1, completion_tokens: 100, seconds: 300}
  tasks: tasks.jsonl
"""

_DOCUMENTS = {
    "pods.md": "# Pods\n\nA pod in CrashLoopBackOff restarts with pauses up to 5 minutes.\n",
    "disks.md": "# Disks\n\nAlert DiskWillFill fires when a disk will be full within four hours.\n",
}

_QUESTION = {"question": "When does the alert DiskWillFill fire?"}

#: What Grafana puts in for its own variables.
_VARIABLES = {"$__range": "5m", "$index": ".*", "$agent": ".*", "$server": ".*"}

_RECORDED = Path(__file__).parents[1] / "recorded"


def test_the_committed_dashboards_are_current() -> None:
    for path, text in files().items():
        assert (ROOT / path).read_text() == text, "run `python -m agent_pipelines.dashboards`"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped everything, while a batch and the API were at work."""
    folder = tmp_path_factory.mktemp("dashboards")
    for name, text in _DOCUMENTS.items():
        (folder / "documents").mkdir(exist_ok=True)
        (folder / "documents" / name).write_text(text)
    for name, yaml in {"docs": _INDEX, "oncall": _AGENT}.items():
        (folder / "assets" / name).mkdir(parents=True)
        (folder / "assets" / name / "defs.yaml").write_text(yaml)
    (folder / "assets" / "oncall" / "tasks.jsonl").write_text(json.dumps(_QUESTION) + "\n")
    state = folder / "state"
    assets = str(folder / "assets")
    started = partial(processes.started, cwd=folder, state=state, AGENT_PIPELINES_ASSETS=assets)
    cert, key = Authority(folder / "ca").issue("server", "localhost", "127.0.0.1")
    tools, metrics, api = ports.free(1, 1, 1)
    with _recorded() as recorded, started("dev") as dev:
        dev.says("Ctrl-C ends all of it", 200)
        until(lambda: addresses(state, "vllm"), 300, "vLLM answers")
        # By its sensor, as `dev` does it: a sync of ours beside it could find it at work.
        exporter = f"{_part(state, 'exporter').addresses['url']}/metrics"
        committed = 'snapshot_sequence{index="docs"} 1.0'
        until(lambda: committed in httpx2.get(exporter, trust_env=False).text, 200, "a snapshot")
        with (
            started("api", "--port", str(api)) as served,
            started(
                *("tools", "search", "--port", str(tools), "--probes-port", str(metrics)),
                TOOLS_TLS_CERT=str(cert),
                TOOLS_TLS_KEY=str(key),
                TOOLS_TLS_CLIENT_CA=str(folder / "ca" / "ca.pem"),
            ),
        ):
            until(lambda: processes.listening(api) or not served.running(), 120, "the API listens")
            assert served.running(), served.err
            until(lambda: processes.listening(metrics), 120, "the tool server listens")
            jobs = {
                "exporter": exporter,
                "search": _part(state, "search").health_url.replace("/health", "/metrics"),
                "search-tls": f"http://127.0.0.1:{metrics}/metrics",
                "vllm": _part(state, "vllm").health_url.replace("/health", "/metrics"),
                "api": f"http://127.0.0.1:{api}/metrics",
                "recorded": recorded,
            }
            with prometheus(jobs, folder) as running:
                until(lambda: all(running.up().values()), 60, "everything is scraped")
                with started("batch", "oncall") as command:
                    batch = command.finish(300)
                assert batch.code == 0, batch.out + batch.err
                asked = httpx2.post(
                    f"http://127.0.0.1:{api}/agents/oncall/tasks",
                    json=_QUESTION,
                    timeout=300,
                    trust_env=False,
                )
                assert asked.status_code == 200, asked.text
                for what in (
                    'agent_pipelines_batch_rows{outcome="ok"} > 0',
                    'rate(agent_api_task_duration_seconds_count{agent="oncall"}[5m]) > 0',
                    'rate(agent_pipelines_tool_call_total{server="search"}[5m]) > 0',
                ):
                    until(partial(running.query, what), 90, f"it is seen: {what}")
                yield running


@pytest.mark.vllm
@pytest.mark.parametrize("name", ["index-truth", "agent-batches", "tools", "gpu-cluster"])
def test_every_panel_shows_something(seen: Prometheus, name: str) -> None:
    board = json.loads((ROOT / f"{FOLDER}/{name}.json").read_text())
    empty = []
    for panel in _panels(board):
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in _VARIABLES.items():
                expression = expression.replace(variable, value)
            values = [one["value"][1] for one in seen.query(expression)]
            if not values or set(values) == {"NaN"}:
                empty.append(f"{panel['title']}: {expression} → {values}")
    assert not empty, "\n".join(empty)


def test_every_panel_says_what_it_shows_and_is_drawn_once() -> None:
    for path in files():
        board = json.loads((ROOT / path).read_text())
        panels = list(_panels(board))
        assert all(panel["description"].endswith(".") for panel in panels)
        titles = [(panel["type"], panel["title"]) for panel in panels]
        assert len(set(titles)) == len(titles)
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)


def _panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in board["panels"] if panel["type"] != "row")


def _part(state: Path, name: str) -> Part:
    found = find(state, name)
    assert found is not None, f"{name} does not run"
    return found


@contextmanager
def _recorded() -> Iterator[str]:
    """The recorded samples at a URL."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(_RECORDED))
    with http.server.ThreadingHTTPServer((ports.HOST, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{ports.HOST}:{server.server_port}/gpu-cluster.prom"
        finally:
            server.shutdown()
            thread.join()
