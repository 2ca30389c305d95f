"""`dev` through a day's faults: real signals to real processes, seen through `status` and the UI.

The tests share one `dev`, in the order of the story they tell; each leaves it healthy.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil  # type: ignore[import-untyped]
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent_pipelines.health import machinery
from agent_pipelines.local import weaviate
from agent_pipelines.local.parts import Part, find
from resources.weaviate import WeaviateResource
from tests import processes
from tests.processes import Command, Finished, until

INDEX = """\
type: agent_pipelines.components.IndexComponent
attributes:
  description: What the people on call know.
  source: {kind: files, url: ../../documents}
"""

DOCUMENTS = {
    "pods.md": "# Pods\n\nA pod in CrashLoopBackOff restarts with pauses up to 5 minutes.\n",
    "disks.md": "# Disks\n\nAlert DiskWillFill fires when a disk will be full within four hours.\n",
    "certificates.md": "# Certificates\n\nThey are renewed thirty days before they expire.\n",
}

#: The sensor looks every 30 s; then a run starts, which loads the model.
FIRST_SYNC, NEXT_SYNC = 150, 150

#: The exporter looks every 30 s; what it missed just then it sees at the next look.
NEXT_LOOKS = 90

#: Starting: Weaviate, the tool server, the code location, webserver and daemon.
UP, DOWN = 150, 60

CONTENTS = """
{ repositoriesOrError { ... on RepositoryConnection { nodes {
  assetNodes { assetKey { path } }
  sensors { name sensorState { status } }
} } } }
"""


SENSOR = """
{ repositoriesOrError { ... on RepositoryConnection { nodes {
  name location { name } sensors { name sensorState { id } }
} } } }
"""
START = """
mutation ($selector: SensorSelector!) {
  startSensor(sensorSelector: $selector) { __typename }
}
"""
STOP = "mutation ($id: String!) { stopSensor(id: $id) { __typename } }"


@dataclass(frozen=True)
class Dev:
    """A running `dev` and the folder it works in."""

    command: Command
    folder: Path
    url: str

    @property
    def state(self) -> Path:
        return self.command.state

    def part(self, name: str) -> Part:
        found = find(self.state, name)
        assert found is not None, f"{name} does not run\n{self.command.err}"
        return found

    def status(self) -> Finished:
        assert self.command.running(), self.command.err
        return cli(self.folder, "status", "--json")

    def snapshot(self) -> int:
        """The committed snapshot; 0 where there is none."""
        found = self.status().json["indexes"]["docs"]["snapshot"]
        return int(found["sequence"]) if found else 0

    def signals(self) -> dict[str, dict[str, str]]:
        """The state of every signal by subject, as the exporter tells Prometheus."""
        return signals_at(f"{self.part('exporter').addresses['url']}/metrics")

    def not_true(self) -> dict[str, str]:
        assert self.command.running(), self.command.err
        every = (signal for subject in self.signals().values() for signal in subject.items())
        return {name: state for name, state in every if state != "true"}

    def switch(self, sensor: str, mutation: str) -> None:
        """Switch a sensor on or off, as a person does in the UI."""
        with httpx2.Client(base_url=self.url, timeout=30, trust_env=False) as http:
            answer = http.post("/graphql", json={"query": SENSOR}).raise_for_status().json()
            (repository,) = answer["data"]["repositoriesOrError"]["nodes"]
            found = next(s for s in repository["sensors"] if s["name"] == sensor)
            variables = {
                "startSensor": {
                    "selector": {
                        "repositoryName": repository["name"],
                        "repositoryLocationName": repository["location"]["name"],
                        "sensorName": sensor,
                    }
                },
                "stopSensor": {"id": found["sensorState"]["id"]},
            }[mutation]
            query = {"startSensor": START, "stopSensor": STOP}[mutation]
            answer = http.post("/graphql", json={"query": query, "variables": variables})
            assert "Error" not in answer.raise_for_status().text, answer.text

    def ports(self) -> list[int]:
        """Every port that its parts listen on."""
        parts = ("weaviate", "search", "dagster", "exporter")
        found = (self.part(name).addresses for name in parts)
        addresses = (address for each in found for address in each.values())
        return [int(address.rstrip("/").rpartition(":")[2]) for address in addresses]


def signals_at(url: str) -> dict[str, dict[str, str]]:
    """The state of every signal by subject, by the metrics at this address."""
    text = httpx2.get(url, timeout=5, trust_env=False).raise_for_status().text
    found: dict[str, dict[str, str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "agent_pipelines_signal" and sample.value == 1:
                subject = found.setdefault(sample.labels["subject"], {})
                subject[sample.labels["signal"]] = sample.labels["state"]
    return found


def cli(folder: Path, *arguments: str) -> Finished:
    return processes.cli(
        *arguments, state=folder / "state", AGENT_PIPELINES_ASSETS=str(folder / "assets")
    )


def lay_out(folder: Path) -> None:
    for name, text in DOCUMENTS.items():
        (folder / "documents").mkdir(exist_ok=True)
        (folder / "documents" / name).write_text(text)
    (folder / "assets" / "docs").mkdir(parents=True)
    (folder / "assets" / "docs" / "defs.yaml").write_text(INDEX)


def until_true(dev: Dev, seconds: float) -> Any:
    """Wait until `status` finds everything true, and return what it says of the index."""
    last: list[Finished] = []

    def healthy() -> bool:
        last[:] = [dev.status()]
        return last[0].code == 0

    try:
        until(healthy, seconds, "status all true")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{last[0].out}\n{dev.command.err}") from None
    return last[0].json["indexes"]["docs"]


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = tmp_path_factory.mktemp("dev")
    lay_out(folder)
    with processes.started(
        "dev", state=folder / "state", AGENT_PIPELINES_ASSETS=str(folder / "assets")
    ) as command:
        command.says("Ctrl-C ends all of it.", UP)
        (line,) = (line for line in command.err.splitlines() if line.startswith("Dagster UI: "))
        yield Dev(command, folder, line.removeprefix("Dagster UI: "))


def test_the_ui_answers_and_shows_the_index_and_its_sensor(dev: Dev) -> None:
    with httpx2.Client(base_url=dev.url, timeout=30, trust_env=False) as http:
        assert http.get("/server_info").raise_for_status().json()["dagster_version"]

        def contents() -> Any:
            answer = http.post("/graphql", json={"query": CONTENTS}).raise_for_status().json()
            return answer["data"]["repositoriesOrError"].get("nodes")

        (repository,) = until(contents, 60, "the code location in the UI")
    keys = {"/".join(node["assetKey"]["path"]) for node in repository["assetNodes"]}
    assert keys == {"docs/documents", "docs/index", "docs/live"}
    sensors = {s["name"]: s["sensorState"]["status"] for s in repository["sensors"]}
    assert sensors == {"docs_sensor": "RUNNING"}


def test_the_sensor_makes_the_first_sync_by_itself(dev: Dev) -> None:
    index = until_true(dev, FIRST_SYNC)
    assert index["snapshot"]["documents"] == len(DOCUMENTS)


def test_the_sensor_syncs_an_edited_file_by_itself(dev: Dev) -> None:
    before = until_true(dev, FIRST_SYNC)["snapshot"]["sequence"]
    (dev.folder / "documents" / "pods.md").write_text(
        "# Pods\n\nA pod that is OOMKilled asked for more memory than its limit of 512 MiB.\n"
    )
    until(lambda: dev.snapshot() > before, NEXT_SYNC, "a new snapshot")
    found = cli(dev.folder, "search", "docs", "OOMKilled memory limit", "--json").json
    assert found["sequence"] == before + 1
    assert "512 MiB" in found["hits"][0]["text"]
    assert dev.status().code == 0


def test_the_exporter_finds_everything_true(dev: Dev) -> None:
    until_true(dev, FIRST_SYNC)
    until(lambda: dev.not_true() == {}, NEXT_LOOKS, "every signal true")
    assert dev.signals()["machinery"].keys() == {s.name for s in machinery.catalogue()}


def test_a_sensor_that_is_switched_off_is_seen_until_it_is_on_again(dev: Dev) -> None:
    dev.switch("docs_sensor", "stopSensor")
    until(lambda: dev.not_true() == {"watchers_on": "false"}, NEXT_LOOKS, "that it is off")
    seen = dev.status()
    assert seen.code == 1, seen.err
    assert seen.json["machinery"]["state"] == "false"
    dev.switch("docs_sensor", "startSensor")
    until(lambda: dev.not_true() == {}, NEXT_LOOKS, "that it is on")


def test_a_weaviate_that_hangs_makes_status_say_that_it_cannot_tell(dev: Dev) -> None:
    child = psutil.Process(dev.part("weaviate").child)
    child.suspend()
    try:
        finished = dev.status()
    finally:
        child.resume()
    assert finished.code == 2, finished.err
    assert "Traceback" not in finished.err
    assert finished.json["indexes"]["docs"]["state"] == "cannot tell"
    until_true(dev, FIRST_SYNC)


def test_dev_restarts_a_weaviate_that_was_killed_and_says_so(dev: Dev) -> None:
    before = dev.part("weaviate")
    psutil.Process(before.child).kill()
    dev.command.says("weaviate has died; starting it again", 15)
    dev.command.says("weaviate is up again", 60)
    assert dev.part("weaviate").child != before.child
    assert dev.part("weaviate").addresses == before.addresses, "where its clients look for it"
    index = until_true(dev, FIRST_SYNC)
    assert index["snapshot"]["documents"] == len(DOCUMENTS), "its data survived"


def test_an_object_deleted_behind_our_back_is_seen_and_put_back(dev: Dev) -> None:
    collection = until_true(dev, FIRST_SYNC)["snapshot"]["collection"]
    addresses = dev.part("weaviate").addresses
    resource = WeaviateResource(**addresses, api_key=weaviate.api_key(dev.state))
    with resource.connect() as store:
        before = store.count(collection)
        store.delete(collection, [next(iter(store.scan(collection))).chunk.id])
        seen = dev.status()
        assert seen.code == 1, seen.err
        states = {s["name"]: s["state"] for s in seen.json["indexes"]["docs"]["signals"]}
        assert states["counts_match"] == "false"
        until_true(dev, NEXT_SYNC)
        assert store.count(collection) == before


def test_a_second_dev_is_refused(dev: Dev) -> None:
    finished = cli(dev.folder, "dev")
    assert finished.code == 2
    assert finished.out == ""
    assert f"error: `dev` is already running for {dev.state}" in finished.err
    assert "AGENT_PIPELINES_STATE_DIR" in finished.err
    until_true(dev, FIRST_SYNC)  # the first one goes on


def test_ctrl_c_ends_everything(dev: Dev) -> None:
    ports = dev.ports()
    assert all(map(processes.listening, ports))
    assert dev.command.running()
    dev.command.signal(signal.SIGINT)
    finished = dev.command.finish(DOWN)
    assert finished.code == 130, finished.err
    assert "Traceback" not in finished.err
    assert not dev.command.left()
    assert not [port for port in ports if processes.listening(port)]


def test_a_killed_dev_leaves_no_orphan(tmp_path: Path) -> None:
    lay_out(tmp_path)
    with processes.started(
        "dev", state=tmp_path / "state", AGENT_PIPELINES_ASSETS=str(tmp_path / "assets")
    ) as command:
        command.says("Ctrl-C ends all of it.", UP)
        ports = Dev(command, tmp_path, "").ports()
        assert command.running()
        command.process.kill()
        until(lambda: not command.left(), DOWN, "the end of everything that dev started")
    assert not [port for port in ports if processes.listening(port)]
