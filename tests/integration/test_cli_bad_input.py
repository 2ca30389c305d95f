"""What a person got wrong: one message with its remedy, exit code 2, and nothing was begun."""

import socket
import sqlite3
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import processes
from tests.processes import Finished

INDEX = """\
type: agent_pipelines.components.IndexComponent
attributes:
  source: {kind: files, url: ../../documents}
"""

AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes:
  index: docs
  instructions: Answer in one sentence.
"""

TASKS = '{"task_id": "one", "question": "What is a pod?"}\n'


@dataclass(frozen=True)
class Case:
    """A command with something wrong about it. `{…}` in its strings stands for an address."""

    name: str
    command: str
    says: tuple[str, ...]
    """What the message must hold: the thing, and what to do about it."""
    files: Mapping[str, str | None] = field(default_factory=dict)
    """Written over the sound assets folder; None: removed."""
    environment: Mapping[str, str] = field(default_factory=dict)
    assets: str = "assets"
    state: str = "state"


def wrong_index(line: str) -> dict[str, str | None]:
    return {"docs/defs.yaml": INDEX + f"  {line}\n"}


UNREACHABLE = {"WEAVIATE_URL": "http://127.0.0.1:{closed}"}
UNREACHABLE_SAYS = ("Weaviate at http://127.0.0.1:{closed} does not answer", "check that it runs")
NO_MODEL = ("'/no/such/model' is not a sentence-transformers folder", "EMBEDDER_MODEL")
NO_DATABASE = ("STATE_DATABASE_URL is not a SQLAlchemy URL", "nonsense", "use sqlite:///")
NO_SOURCE = ("{folder}/absent", "is not a folder that can be listed", "correct `url` in defs.yaml")
BAD_LINE = ("tasks.jsonl, line 2 is not a task", "write one JSON object per line")
TWICE = ("tasks.jsonl holds tasks twice: one on lines 1, 2", "remove the repeated lines")

CASES = [
    Case(
        "unknown-field",
        "sync docs",
        ("attributes.colour", "{assets}/docs/defs.yaml:4", "there is no such field", "correct"),
        wrong_index("colour: red"),
    ),
    Case(
        "unknown-field-elsewhere",
        "run --json",
        ("attributes.colour", "{assets}/docs/defs.yaml:4", "correct or remove"),
        wrong_index("colour: red"),
    ),
    Case(
        "broken-yaml",
        "sync docs",
        ("{assets}/docs/defs.yaml", "line 1, column 7", "type: [unclosed", "correct"),
        {"docs/defs.yaml": "type: [unclosed\nattributes:\n"},
    ),
    Case(
        "bad-cron",
        "sync docs",
        ("'every day'", "cron", "correct {assets}/docs/defs.yaml"),
        wrong_index('schedule: "every day"'),
    ),
    Case(
        "more-tokens-than-the-model-reads",
        "sync docs",
        ("chunking.tokens 4000", "all-MiniLM-L6-v2", "set chunking.tokens to 256 or less"),
        wrong_index("chunking: {tokens: 4000}"),
    ),
    Case(
        "overlap-not-below-tokens",
        "sync docs",
        ("chunking.overlap 50 is not below chunking.tokens 50; lower the overlap", "correct"),
        wrong_index("chunking: {tokens: 50, overlap: 50}"),
    ),
    Case(
        "no-source",
        "sync docs --json",
        NO_SOURCE,
        {"docs/defs.yaml": INDEX.replace("documents", "absent")},
    ),
    Case("no-assets", "run", ("assets folder {folder}/absent", "--assets"), assets="absent"),
    Case(
        "empty-assets",
        "run",
        ("no folder below {assets} has a defs.yaml", "add one"),
        {"docs/defs.yaml": None, "helper/defs.yaml": None},
    ),
    Case("unknown-index", "sync nope", ("no index 'nope' in {assets}", "use one of: docs")),
    Case("unknown-agent", "batch nope", ("no agent 'nope' in {assets}", "use one of: helper")),
    Case("no-model-run", "run --json", NO_MODEL, environment={"EMBEDDER_MODEL": "/no/such/model"}),
    Case(
        # Where tests run as root, permissions do not bite; a file where a folder must be does.
        "state-directory-cannot-be-written",
        "sync docs",
        ("directory {folder}/documents/a.md/state cannot be written", "_STATE_DIR to a folder"),
        state="documents/a.md/state",
    ),
    Case("weaviate-unreachable", "sync docs --json", UNREACHABLE_SAYS, environment=UNREACHABLE),
    Case("weaviate-unreachable-search", "search docs x", UNREACHABLE_SAYS, environment=UNREACHABLE),
    Case("weaviate-unreachable-dev", "dev", UNREACHABLE_SAYS, environment=UNREACHABLE),
    Case(
        "weaviate-no-scheme",
        "sync docs",
        ("WEAVIATE_URL 'localhost:8080' is not an http(s) URL", "write it like http://"),
        environment={"WEAVIATE_URL": "localhost:8080"},
    ),
    Case(
        "weaviate-no-port",
        "search docs pods",
        ("WEAVIATE_URL 'http://localhost:80b' is not an http(s) URL", "write it like http://"),
        environment={"WEAVIATE_URL": "http://localhost:80b"},
    ),
    Case("database", "sync docs", NO_DATABASE, environment={"STATE_DATABASE_URL": "nonsense"}),
    Case("database-status", "status", NO_DATABASE, environment={"STATE_DATABASE_URL": "nonsense"}),
    Case("task-bad-line-run", "run", BAD_LINE, {"helper/tasks.jsonl": TASKS + "no json\n"}),
    Case("task-twice", "batch helper --json", TWICE, {"helper/tasks.jsonl": TASKS * 2}),
    Case(
        "no-tasks-file",
        "batch helper --tasks /no/such/tasks.jsonl",
        ("tasks file /no/such/tasks.jsonl cannot be read", "point `tasks`"),
    ),
    Case(
        "tasks-of-no-kind",
        "batch helper --tasks tasks.xlsx",
        ("tasks 'tasks.xlsx' ends in none of .csv, .jsonl", "name a file that ends in one"),
    ),
    Case(
        "rerun-of-other-tasks",
        "batch helper --rerun-failed --tasks tasks.jsonl",
        ("--rerun-failed is about the tasks of the last batch", "leave out one"),
    ),
    Case(
        "no-answers",
        "answers helper --output answers.parquet",
        ("agent helper has no batch on record of its tasks", "agent-pipelines batch helper"),
    ),
    Case(
        "port-taken",
        "dev --port {taken}",
        ("port {taken} cannot be used", "in use", "name another with --port"),
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Tried:
    """A case that has been tried."""

    finished: Finished
    state: Path
    names: Mapping[str, str]


def attempt(case: Case, folder: Path, ports: Mapping[str, str]) -> Tried:
    assets, documents, state = folder / case.assets, folder / "documents", folder / case.state
    documents.mkdir(parents=True)
    (documents / "a.md").write_text("# Pods\n\nA pod that restarts has run out of memory.\n")
    sound = {"docs/defs.yaml": INDEX, "helper/defs.yaml": AGENT, "helper/tasks.jsonl": TASKS}
    for name, text in {**sound, **case.files}.items():
        if text is not None:
            file = folder / "assets" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    names = {**ports, "folder": str(folder), "assets": str(assets)}
    finished = processes.cli(
        *(word.format(**names) for word in case.command.split()),
        state=state,
        **{key: value.format(**names) for key, value in case.environment.items()},
        AGENT_PIPELINES_ASSETS=str(assets),
    )
    return Tried(finished, state, names)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Tried]]]:
    """All cases, two at a time: nearly all of their time goes to imports."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.socket() as closed,
        ThreadPoolExecutor(2) as pool,
    ):
        closed.bind(("127.0.0.1", 0))  # bound, but not listening: nobody else gets this port
        ports = {
            "taken": str(taken.getsockname()[1]),
            "closed": str(closed.getsockname()[1]),
        }
        yield {
            case.name: pool.submit(attempt, case, tmp_path_factory.mktemp(case.name), ports)
            for case in CASES
        }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_message_and_nothing_begun(case: Case, tried: dict[str, Future[Tried]]) -> None:
    it = tried[case.name].result()
    finished, shown = it.finished, f"{it.finished.out}\n{it.finished.err}"
    assert finished.code == 2, shown
    assert finished.out == ""
    assert "Traceback" not in finished.err
    assert finished.err.startswith("error: "), "nothing but the message"
    assert finished.err.count("error: ") == 1
    assert finished.err.count("\n  → ") == 1, "one remedy"
    for text in case.says:
        assert text.format(**it.names) in finished.err
    assert not (it.state / "weaviate").exists(), "no part was started"
    assert not (it.state / "dagster").exists(), "no run was recorded"
    database = it.state / "state.db"
    if database.exists():
        with sqlite3.connect(database) as connection:
            for table in ("snapshots", "generations", "leases"):
                assert connection.execute(f"select count(*) from {table}").fetchone() == (0,)
    assert not processes.of(it.state)


def test_status_cannot_tell_when_weaviate_cannot_be_reached(tmp_path: Path) -> None:
    case = Case("status", "status --json", (), environment={"WEAVIATE_URL": "http://127.0.0.1:9"})
    finished = attempt(case, tmp_path, {}).finished
    assert finished.code == 2, finished.err
    assert "Traceback" not in finished.err
    index = finished.json["indexes"]["docs"]
    assert index["state"] == "cannot tell"
    assert all("http://127.0.0.1:9 does not answer" in s["observed"] for s in index["signals"])
