"""A user's own folder of Markdown, through the commands: run, sync, search, status, Ctrl-C."""

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent_pipelines.health.signals import catalogue
from tests import processes
from tests.processes import Finished, listening, started, until

INDEX = """\
# The ten lines of the README.
type: agent_pipelines.components.IndexComponent
attributes:
  description: What the people on call know.
  source:
    kind: files
    url: ../../documents
    include: ["**/*.md"]
  max_staleness: PT10M
"""

AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes:
  index: docs
  on_stale_index: block
  instructions: Answer in one or two plain sentences, using only what the search found.
  tool_calls: structured
  tools: [search]
  bound_arguments:
    search: {query: "{question}", limit: 3}
  output_schema:
    type: object
    properties:
      answer: {type: string, minLength: 1, maxLength: 200}
    required: [answer]
  repetition_penalty: 1.15
  limits: {turns: 2, tool_calls: 1, completion_tokens: 300, seconds: 300}
  concurrency: 3
"""

QUESTIONS = {
    "pause": "How long does the kubelet wait before it restarts a container again?",
    "disk": "What do I do when DiskWillFill fires?",
    "certificates": "When are certificates renewed?",
}

#: Title → paragraphs. Twelve documents of a few facts each.
DOCUMENTS = {
    "Restarting pods": (
        "A container that exits is restarted by the kubelet after 10 seconds, then 20, then 40; "
        "the pause doubles up to five minutes. This state is shown as CrashLoopBackOff.",
        "The exit code tells most: 137 is a kill, nearly always for memory; 143 is a polite end. "
        "`kubectl logs --previous` shows what the container said before it ended.",
        "A pod without a controller is never started again on another node.",
    ),
    "Full disks": (
        "The alert DiskWillFill fires when, at the pace of the last six hours, a disk will be full "
        "within four hours. First look for logs that are not rotated.",
        "A volume can be grown while in use: raise the size in its claim. It can never shrink.",
        "The kubelet evicts pods when less than 10 % of the disk of a node is free.",
    ),
    "Certificates": (
        "Certificates are valid for ninety days and renewed thirty days before they expire.",
        "A renewal that fails is tried again after one hour, then two, up to thirty-two hours. The "
        "events of the Certificate object say why.",
    ),
    "Database failover": (
        "The primary of the orders database has two replicas; one of them is synchronous. When the "
        "primary is silent for thirty seconds, the synchronous replica takes over.",
        "After a failover the old primary must be rewound before it may follow the new one.",
    ),
    "Backups": (
        "A base backup is taken every night at 02:00 UTC, and the write-ahead log is shipped every "
        "minute. So at most one minute of orders can be lost.",
        "A restore is rehearsed on the first Tuesday of a month, and takes about forty minutes.",
    ),
    "Queues": (
        "The payments queue holds messages for seven days. A message that failed five times goes "
        "to the dead-letter queue, where somebody must look at it.",
        "A growing age of the oldest message matters more than a growing number of messages.",
    ),
    "Deployments": (
        "A rollout replaces a quarter of the pods at a time and waits for each to be ready. It is "
        "given up after ten minutes without progress.",
        "`kubectl rollout undo` goes back to the revision before. Ten revisions are kept.",
    ),
    "Name resolution": (
        "CoreDNS answers for the cluster with two replicas. A name with fewer than five dots is "
        "first tried with each search domain, which makes outside names slow.",
        "A dot at the end of the name avoids that.",
    ),
    "Time": (
        "All clocks follow chrony. A node that is more than half a second off is cordoned, since "
        "tokens would be refused as not yet valid.",
        "Leap seconds are smeared over twenty-four hours.",
    ),
    "Load balancers": (
        "The load balancer drops idle connections after sixty seconds. Clients that keep theirs "
        "open for longer must send keep-alives.",
        "A backend that fails three health checks in a row gets no new requests.",
    ),
    "On call": (
        "A page is acknowledged within five minutes, or it goes to the second person on call. The "
        "rota changes on Wednesdays at noon.",
        "Whoever is woken at night starts later on the next day.",
    ),
    "Secrets": (
        "Secrets are rotated every thirty days by the vault. A process reads its secret anew when "
        "the file changes, without a restart.",
        "A secret that was shown in a log counts as known to everybody and is rotated at once.",
    ),
}


@dataclass(frozen=True)
class Place:
    """A user's folder."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def documents(self) -> Path:
        return self.folder / "documents"

    @property
    def environment(self) -> dict[str, str]:
        return {"AGENT_PIPELINES_ASSETS": str(self.folder / "assets")}

    def write(self, title: str, paragraphs: tuple[str, ...]) -> Path:
        file = self.documents / f"{title.lower().replace(' ', '_')}.md"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n\n".join((f"# {title}", *paragraphs)) + "\n")
        return file

    def add(self, name: str, files: dict[str, str]) -> None:
        for file, text in files.items():
            path = self.folder / "assets" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def cli(self, *arguments: str, seconds: float = 180) -> Finished:
        return processes.cli(*arguments, state=self.state, seconds=seconds, **self.environment)

    def sync(self, *arguments: str) -> Any:
        """What a sync of the index says, once it succeeded."""
        finished = self.cli("sync", "docs", "--json", *arguments)
        assert finished.code == 0, f"{finished.out}\n{finished.err}"
        return finished.json["indexes"]["docs"]

    def snapshot(self) -> int:
        """The snapshot that was committed last."""
        return self.query("select max(sequence) from snapshots")

    def ports(self) -> list[int]:
        """Every port that a part was given here."""
        remembered = (self.state / "parts").glob("*.ports.json")
        return [port for file in remembered for port in json.loads(file.read_text())[1]]

    def at_rest(self) -> bool:
        """Whether nothing of what was started here is left."""
        return not processes.of(self.state) and not any(map(listening, self.ports()))

    def query(self, sql: str) -> int:
        with closing(sqlite3.connect(self.state / "state.db", timeout=30)) as connection:
            (value,) = connection.execute(sql).fetchone()
        return int(value)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Finished]:
    """One `run` over the folder: the only start of vLLM here."""
    place = Place(tmp_path_factory.mktemp("own"))
    for title, paragraphs in DOCUMENTS.items():
        place.write(title, paragraphs)
    tasks = [json.dumps({"task_id": id_, "question": q}) for id_, q in QUESTIONS.items()]
    place.add("docs", {"defs.yaml": INDEX})
    place.add("helper", {"defs.yaml": AGENT, "tasks.jsonl": "\n".join(tasks)})
    with started("run", "--json", state=place.state, **place.environment) as command:
        finished = command.finish(540)
        assert not command.left(), "orphans of `run`"
    return place, finished


@pytest.fixture
def place(ran: tuple[Place, Finished]) -> Place:
    """The folder after the first run."""
    return ran[0]


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_run_does_everything_and_leaves_nothing_running(ran: tuple[Place, Finished]) -> None:
    place, finished = ran
    assert finished.code == 0, f"{finished.out}\n{finished.err}"
    assert "Traceback" not in finished.err
    document = finished.json
    assert document["ok"] is True

    index = document["indexes"]["docs"]
    assert (index["listed"], index["changed"], index["deleted"]) == (12, 12, 0)
    assert index["failed"] == index["retired"] == index["repaired"] == 0
    assert index["embedded"] == index["written"] == index["chunks"] >= 12
    assert index["snapshot"] == 1
    assert set(index["checks"]) == {signal.name for signal in catalogue()}
    assert all(check["passed"] for check in index["checks"].values())

    agent = document["agents"]["helper"]
    assert agent["tasks"] == 3
    assert {name: n for name, n in agent["outcomes"].items() if n} == {"ok": 3}
    failed = {name for name, check in agent["checks"].items() if not check["passed"]}
    targets = {"tool_latency", "ttft", "stream_speed", "queue"}
    assert failed <= targets, "which a busy machine may miss, and is warned of"

    assert len(place.ports()) >= 4, "Weaviate, vLLM and the search tool had ports"
    assert place.at_rest()


@pytest.mark.vllm
def test_a_sync_without_a_change_embeds_nothing(place: Place) -> None:
    before = place.snapshot()
    again = place.sync()
    assert (again["changed"], again["embedded"], again["written"]) == (0, 0, 0)
    assert again["snapshot"] == before, "nothing new to commit"
    assert place.at_rest()


@pytest.mark.vllm
def test_an_edit_and_a_deletion_change_that_document_only(place: Place) -> None:
    before = place.snapshot()
    place.write("Time", ("Clocks follow a rubidium oscillator named Metronome in rack seven.",))
    edited = place.sync()
    assert (edited["listed"], edited["changed"], edited["deleted"]) == (12, 1, 0)
    assert 1 <= edited["embedded"] <= 2
    assert edited["snapshot"] == before + 1

    finished = place.cli("search", "docs", "rubidium oscillator Metronome", "--json")
    assert finished.code == 0, finished.err
    found = finished.json
    assert found["sequence"] == edited["snapshot"]
    assert "Metronome in rack seven" in found["hits"][0]["text"]
    assert found["hits"][0]["document_id"] == "time.md"

    (place.documents / "queues.md").unlink()
    deleted = place.sync()
    assert (deleted["listed"], deleted["changed"], deleted["deleted"]) == (11, 0, 1)
    assert deleted["embedded"] == 0
    assert deleted["retired"] == edited["chunks"] - deleted["chunks"] >= 1

    status = place.cli("status", "--json")
    assert status.code == 0, f"{status.out}\n{status.err}"
    index = status.json["indexes"]["docs"]
    assert index["state"] == "true"
    assert index["snapshot"]["sequence"] == deleted["snapshot"]
    assert index["snapshot"]["documents"] == 11
    assert status.json["agents"]["helper"]["outcomes"] == {"ok": 3}
    assert place.at_rest()


@pytest.mark.vllm
def test_two_syncs_at_once_are_safe(place: Place) -> None:
    place.write("Secrets", ("Secrets are kept in a tin box under the third willow.",))
    arguments = ("sync", "docs", "--json")
    with (
        started(*arguments, state=place.state, **place.environment) as one,
        started(*arguments, state=place.state, **place.environment) as two,
    ):
        results = [one.finish(180), two.finish(180)]
    codes = sorted(result.code for result in results)
    assert codes[0] == 0, [result.err for result in results]
    for result in results:
        assert "Traceback" not in result.err
        index = result.json["indexes"]["docs"]
        assert result.code == 0 or "is being written by" in index["error"], index
    status = place.cli("status", "--json")
    assert status.code == 0, f"{status.out}\n{status.err}"
    observed = {s["name"]: s["observed"] for s in status.json["indexes"]["docs"]["signals"]}
    assert "0 changes not live" in observed["fresh"]
    assert place.at_rest()


MANY = 700


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Place]:
    """A folder that takes a few seconds to index, in more than one batch."""
    place = Place(tmp_path)
    place.add("docs", {"defs.yaml": INDEX})
    for number in range(MANY):
        place.write(f"Machine {number}", (f"Machine {number} is in rack {number % 37}.",))
    yield place
    assert place.at_rest()


def test_ctrl_c_leaves_what_the_next_sync_continues_from(large: Place) -> None:
    indexed = "select count(*) from documents where state = 'indexed'"

    def begun() -> bool:
        assert command.running(), f"{command.out}\n{command.err}"
        return (large.state / "state.db").exists() and large.query(indexed) > 0

    with started("sync", "docs", "--json", state=large.state, **large.environment) as command:
        command.says("listing the source", 120)
        until(begun, 120, "the first documents in the ledger")
        command.signal(signal.SIGINT)
        finished = command.finish(60)
        assert not command.left()
    assert finished.code == 130, f"{finished.out}\n{finished.err}"
    assert "interrupted; the next command continues from here" in finished.err
    assert "Traceback" not in finished.err
    assert finished.out == ""
    assert large.at_rest()
    assert large.query("select count(*) from snapshots") == 0

    continued = large.sync()
    assert continued["listed"] == MANY
    assert continued["embedded"] < MANY, "what was confirmed is not embedded again"
    assert continued["chunks"] == MANY
    assert continued["snapshot"] == 1
    assert all(check["passed"] for check in continued["checks"].values())


@pytest.mark.vllm
def test_ctrl_c_in_a_run_waits_for_no_part_that_is_starting(large: Place) -> None:
    task = json.dumps({"question": QUESTIONS["disk"]})
    large.add("helper", {"defs.yaml": AGENT, "tasks.jsonl": task})
    with started("run", state=large.state, **large.environment) as command:
        command.says("listing the source", 120)
        command.signal(signal.SIGINT)
        finished = command.finish(40)
        assert not command.left()
    assert finished.code == 130, f"{finished.out}\n{finished.err}"
    assert "Traceback" not in finished.err
    assert "agent helper" not in finished.err, "nothing is begun after Ctrl-C"
