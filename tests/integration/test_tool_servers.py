"""Tool servers from YAML to alert: the job as Dagster runs it, a real server, what is counted."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from agent_pipelines.agents.tool_records import read_breakers
from agent_pipelines.commands import tool_samples
from agent_pipelines.commands.doctor import examine
from agent_pipelines.definitions import definitions_of
from agent_pipelines.health.exporter.metrics import Readings
from agent_pipelines.health.exporter.worker import Seen
from agent_pipelines.loading import load_assets
from agent_pipelines.settings import Settings
from agent_pipelines.status import ToolServerStatus, tool_server_status
from resources.llm import LlmResource
from resources.state import StateResource
from tests.orders_server import OrdersServer, orders
from tests.scripted_model import MODEL, Script, ScriptedModel, Turn, calls, says

SERVER = """\
type: agent_pipelines.components.ToolServerComponent
attributes:
  url: URL
  tools: [read, refund]
  call_timeout_seconds: 2
  breaker: {open_seconds: 60}
"""

AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes:
  instructions: Look after the orders.
  tool_servers: [orders]
  tools: [read, refund]
  concurrency: 1
  wait_minutes: 0.02
  limits: {turns: 3}
"""


class World:
    """An agent whose tools are those of one server of somebody else."""

    def __init__(self, folder: Path, server: OrdersServer, tasks: int) -> None:
        self.assets = folder / "assets"
        self.state = StateResource(url=f"sqlite:///{folder / 'state.db'}")
        self.instance = dg.DagsterInstance.ephemeral()
        self.server = server
        lines = [json.dumps({"task_id": f"t{n:02}", "question": f"o{n}"}) for n in range(tasks)]
        self.write("orders", "defs.yaml", SERVER.replace("URL", server.url))
        self.write("clerk", "defs.yaml", AGENT)
        self.write("clerk", "tasks.jsonl", "\n".join(lines))

    def write(self, name: str, file: str, text: str) -> None:
        (self.assets / name).mkdir(parents=True, exist_ok=True)
        (self.assets / name / file).write_text(text)

    def run(self, script: Script) -> Any:
        with ScriptedModel(script) as model:
            llm = LlmResource(base_url=model.base_url, model=MODEL)
            defs = definitions_of(load_assets(self.assets), {"state": self.state, "llm": llm})
            return defs.resolve_job_def("clerk_batch").execute_in_process(
                instance=self.instance, raise_on_error=False
            )

    def status(self) -> ToolServerStatus:
        """What `status` says of the one server."""
        (found,) = tool_server_status(self.state.engine(), load_assets(self.assets), self.instance)
        return found

    def metrics(self) -> dict[str, float]:
        """What the exporter's /metrics would say of tools."""
        agents = load_assets(self.assets).agents.values()
        found = list(tool_samples.samples(self.state.engine(), agents))
        seen = Seen("machinery", (), born=0.0, ended=1e12, samples=found)
        registry = CollectorRegistry()
        registry.register(Readings(lambda: [seen], lambda: 1, tick_every=30))
        lines = generate_latest(registry).decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name.removeprefix("agent_pipelines_"): float(value) for name, _, value in pairs}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OrdersServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    with orders(folder) as running:
        yield running


def refunds(body: dict[str, Any]) -> Turn:
    """Reads the order, refunds it, says so."""
    question = body["messages"][1]["content"]
    replies = sum(message["role"] == "assistant" for message in body["messages"])
    if replies < 2:
        return calls((("read", "refund")[replies], {"order": question}))
    return says({"answer": "done"})


def metadata(result: Any) -> dict[str, Any]:
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def checks(result: Any) -> dict[str, tuple[bool, str]]:
    return {
        check.check_name: (check.passed, check.description or "")
        for check in result.get_asset_check_evaluations()
    }


def test_calls_of_a_batch_are_shown_kept_and_exported(tmp_path: Path, server: OrdersServer) -> None:
    world = World(tmp_path, server, tasks=5)
    labels = '{server="orders",tool_name="refund"}'
    before = world.metrics()
    assert before[f"tool_call_total{labels}"] == 0, "there before the first call"
    result = world.run(refunds)
    assert result.success
    shown = metadata(result)
    assert (shown["outcome_ok"], shown["tool_calls_sent"], shown["tool_success_rate"]) == (5, 10, 1)
    assert 0 < shown["tool_p50_ms"] <= shown["tool_p99_ms"]
    assert shown["breaker_orders"] == "closed, opened 0 times"
    assert "| orders | refund | 5 ok |" in shown["tool_calls"]
    passed = checks(result)
    assert passed["tool_success"] == (True, "10 of 10 calls brought a result")
    assert "p99" in passed["tool_latency"][1]

    assert world.run(refunds).success
    after = world.metrics()
    assert after[f"tool_call_total{labels}"] == 10, "of both batches, whose processes have ended"
    assert after[f"tool_call_errors_total{labels}"] == 0
    assert after[f"tool_call_duration_seconds_count{labels}"] == 10
    bucket = '{le="+Inf",server="orders",tool_name="refund"}'
    assert after[f"tool_call_duration_seconds_bucket{bucket}"] == 10
    assert after['tool_breaker{agent="clerk",server="orders",state="closed"}'] == 1
    later = datetime.now(UTC) + timedelta(minutes=2)
    assert read_breakers(world.state.engine(), later) == [], "nobody is at work"
    assert [server.done[f"refund:o{n}"] for n in range(5)] == [2] * 5

    status = world.status()
    assert (status.name, status.reachable) == ("orders", True)
    assert status.observed == f"{server.url}, 2 tools"
    (use,) = status.agents
    assert (use.agent, use.breaker, use.error_share) == ("clerk", "closed", 0)
    assert use.heard_at is not None


def test_a_dead_server_is_no_silence(tmp_path: Path, server: OrdersServer) -> None:
    world = World(tmp_path, server, tasks=8)

    def dies(body: dict[str, Any]) -> Turn:
        if body["messages"][1]["content"] == "o2":
            server.process.kill()
            server.process.wait()
        return refunds(body)

    result = world.run(dies)
    assert result.success
    _of_the_tasks, event = result.get_asset_observation_events()
    observed = event.asset_observation_data.asset_observation.metadata
    shown, passed = {name: value.value for name, value in observed.items()}, checks(result)
    assert {name for name in shown if name.startswith("outcome_")} == {"outcome_ok"}
    assert shown["outcome_ok"] == 2
    assert "the rest waits for orders: orders: tool unavailable, retry after" in shown["ending"]
    assert shown["breaker_orders"] == "open, opened 1 times"
    assert "2 of 8 ok, 2 answered; the rest waits for orders" in passed["completion"][1]
    assert not passed["tool_success"][0]
    counted = world.metrics()
    reads = '{server="orders",tool_name="read"}'
    # Two found it well; one was sent twice, which was the second failure; the next one's was the
    # third; four were not sent, and whoever tried meanwhile whether it is back.
    assert counted[f"tool_call_total{reads}"] >= 2 + 2 + 1 + 4
    assert counted[f"tool_call_errors_total{reads}"] == counted[f"tool_call_total{reads}"] - 2
    assert counted['tool_breaker{agent="clerk",server="orders",state="open"}'] == 1

    status = world.status()
    assert not status.reachable
    assert "ConnectError" in status.observed
    (use,) = status.agents
    assert use.breaker == "open"
    errors = counted[f"tool_call_errors_total{reads}"]
    assert use.error_share == pytest.approx(
        errors / (counted[f"tool_call_total{reads}"] + shown["outcome_ok"]), abs=1e-4
    )


def test_doctor_asks_a_tool_server_for_its_tools(
    tmp_path: Path, server: OrdersServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_PIPELINES_STATE_DIR", str(tmp_path / "state"))
    world = World(tmp_path, server, tasks=1)

    def finding() -> Any:
        found = {each.subject: each for each in examine(Settings(), world.assets)}
        return found["tool server orders"]

    assert finding().observed == f"{server.url}, 2 tools"
    server.process.kill()
    server.process.wait()
    assert "ConnectError" in finding().observed
    assert "check that it runs" in finding().remedy
