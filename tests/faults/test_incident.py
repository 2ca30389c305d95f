"""The incident that this project began with, replayed: who says what, three days later.

Day one: the job that keeps the index dies quietly, and an hour later a document changes. Nobody
looks. Day three: people ask. The clock is turned by moving everything that was recorded two days
back, which is the same for whoever looks at it now.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from agent_pipelines.health.__main__ import ROOT
from agent_pipelines.state.engine import open_engine
from tests import processes, prometheus, traces
from tests.clock import pass_time
from tests.processes import Finished, until
from tests.scripted_model import ScriptedModel, says

INDEX = """\
type: agent_pipelines.components.IndexComponent
attributes:
  source: {kind: files, url: ../../documents}
"""

AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes:
  index: docs
  on_stale_index: block
  instructions: Answer from what the search found.
  tools: [search]
  output_schema: {type: object, properties: {answer: {type: string}}, required: [answer]}
  limits: {turns: 2, tool_calls: 1, completion_tokens: 100, seconds: 60}
"""

OLD = "# Refunds\n\nA refund takes fourteen days, and needs the order's number.\n"
NEW = "# Refunds\n\nA refund takes three days, and needs nothing but a name.\n"

QUESTION = "How long does a refund take?"

TWO_DAYS = timedelta(days=2)


@dataclass(frozen=True)
class Place:
    """Where it happens."""

    folder: Path
    environment: dict[str, str]

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def cli(self, *arguments: str) -> Finished:
        return processes.cli(*arguments, state=self.state, **self.environment)

    def write(self, text: str) -> None:
        (self.folder / "documents" / "refunds.md").write_text(text)

    def scrape(self) -> str:
        """What a real exporter says, once it has looked at everything."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with processes.started(
            "exporter", "--port", str(port), state=self.state, **self.environment
        ) as command:
            url = f"http://127.0.0.1:{port}"

            def ready() -> bool:
                assert command.running(), command.err
                if not processes.listening(port):
                    return False
                return httpx2.get(f"{url}/ready", trust_env=False).status_code == 200

            until(ready, 90, "an exporter that has looked at everything")
            return httpx2.get(f"{url}/metrics", trust_env=False).text


@pytest.fixture
def place(tmp_path: Path, weaviate_url: dict[str, str]) -> Iterator[Place]:
    (tmp_path / "documents").mkdir()
    for name, text in (("docs", INDEX), ("support", AGENT)):
        (tmp_path / "assets" / name).mkdir(parents=True)
        (tmp_path / "assets" / name / "defs.yaml").write_text(text)
    (tmp_path / "assets" / "support" / "tasks.jsonl").write_text(
        f'{{"id": "one", "question": "{QUESTION}"}}\n'
    )
    with ScriptedModel(lambda _: says({"answer": "Fourteen days."})) as model:
        yield Place(
            tmp_path,
            {
                "AGENT_PIPELINES_ASSETS": str(tmp_path / "assets"),
                "WEAVIATE_URL": weaviate_url["url"],
                "WEAVIATE_GRPC": weaviate_url["grpc"],
                "WEAVIATE_API_KEY": weaviate_url["api_key"],
                "LLM_BASE_URL": model.base_url,
            },
        )


def test_an_indexing_job_that_died_two_days_ago_is_said_by_everyone_who_is_asked(
    place: Place, tmp_path: Path
) -> None:
    # Day one, morning: all is well, and everybody says so.
    place.write(OLD)
    assert place.cli("sync", "docs").code == 0
    assert place.cli("status").code == 0
    # The job dies. A document changes; that is seen at the next look, and is no fault yet.
    place.write(NEW)
    early = place.cli("status", "--json")
    assert early.code == 0, early.out
    assert _signal(early, "fresh")["state"] == "true"

    pass_time(open_engine(f"sqlite:///{place.state / 'state.db'}"), TWO_DAYS)

    # Day three. The dashboard and whoever carries the pager:
    trace = traces.Trace(every=30)
    scraped = place.scrape()
    for _ in range(6):
        trace.add(scraped)
    assert _sample(scraped, 'staleness_seconds{index="docs"}') == pytest.approx(172_800, rel=0.02)
    fired = {("FreshFalse", "docs"), ("ReadingTooOld", "docs")}
    _judge(trace, fired, tmp_path)
    # Whoever asks in the terminal:
    late = place.cli("status", "--json")
    assert late.code == 1, late.out
    fresh = _signal(late, "fresh")
    assert fresh["state"] == "false"
    assert fresh["evidence"] == [{"document": "refunds.md", "change": "new or changed"}]
    # Whoever searches, person or agent: the old text, and that it is not to be relied on.
    found = place.cli("search", "docs", QUESTION, "--json").json
    assert "fourteen days" in found["hits"][0]["text"]
    assert found["staleness_seconds"] == pytest.approx(172_800, rel=0.02)
    doubts = {doubt["signal"]: doubt["state"] for doubt in found["not_true"]}
    assert doubts["fresh"] == "false"
    # Agents do not answer.
    refused = place.cli("batch", "support")
    assert refused.code == 1, refused.err
    assert "refuses to work on index docs" in refused.out + refused.err
    assert "fresh" in refused.out + refused.err

    # The job is started again, and everybody says the same again.
    assert place.cli("sync", "docs").code == 0
    assert place.cli("status").code == 0
    found = place.cli("search", "docs", QUESTION, "--json").json
    assert "three days" in found["hits"][0]["text"]
    assert (found["staleness_seconds"], found["not_true"]) == (0, [])


def _signal(status: Finished, name: str) -> Any:
    (found,) = (s for s in status.json["indexes"]["docs"]["signals"] if s["name"] == name)
    return found


def _sample(scraped: str, name: str) -> float:
    (line,) = (one for one in scraped.splitlines() if one.startswith(f"agent_pipelines_{name} "))
    return float(line.rpartition(" ")[2])


def _judge(trace: traces.Trace, fires: set[traces.Fired], folder: Path) -> None:
    """promtool finds that these alerts fire on what was scraped, and no others."""
    told = traces.parse(trace.dump(fires))
    suite = folder / "tests.yaml"
    suite.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(ROOT / "deploy" / "alerts" / "rules.yaml")],
                "evaluation_interval": "30s",
                "tests": [traces.judged("the incident", told)],
            }
        )
    )
    done = prometheus.run("promtool", "test", "rules", suite)
    assert done.returncode == 0, done.stdout + done.stderr
