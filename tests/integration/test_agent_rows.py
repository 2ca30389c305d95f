"""The rows of an agent's batches through Dagster: in parts, rerun, and out to files."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from rich.console import Console
from typer.testing import CliRunner

from agent_pipelines import cli
from agent_pipelines.agents.batches import newest_of_all_partitions
from agent_pipelines.commands.jobs import run_batch
from agent_pipelines.definitions import build_defs
from agent_pipelines.session import JobOutcome, open_session
from agent_pipelines.settings import Settings
from agent_pipelines.state import leases
from resources.llm import LlmResource
from resources.state import StateResource
from tests.scripted_model import MODEL, ScriptedModel, Turn, says

TASKS = 12

AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes:
  instructions: Answer.
  tasks: questions.csv
  partitions: PARTITIONS
  schedule: 0 6 * * *
"""


class World:
    """An agent without an index and its tasks, in a folder."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.assets = folder / "assets"
        self.instance = instance
        self.state = StateResource(url=f"sqlite:///{folder / 'state.db'}")
        (self.assets / "clerk").mkdir(parents=True)
        rows = [f"t{n},question {n}" for n in range(TASKS)]
        (self.assets / "clerk" / "questions.csv").write_text("\n".join(["task_id,question", *rows]))

    def definitions(self, *, partitions: int = 1, model: str = "http://127.0.0.1:9/v1") -> Any:
        yaml = AGENT.replace("PARTITIONS", str(partitions))
        (self.assets / "clerk" / "defs.yaml").write_text(yaml)
        overrides = {"state": self.state, "llm": LlmResource(base_url=model, model=MODEL)}
        return build_defs(assets=self.assets, resource_overrides=overrides)

    def run(
        self, model: ScriptedModel, *, partitions: int = 1, key: str | None = None, **config: Any
    ) -> Any:
        defs = self.definitions(partitions=partitions, model=model.base_url)
        return defs.resolve_job_def("clerk_batch").execute_in_process(
            instance=self.instance,
            partition_key=key,
            run_config={"ops": {"clerk__answers": {"config": config}}},
            raise_on_error=False,
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(tmp_path, instance)


def metadata_of(result: Any) -> dict[str, Any]:
    (made,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in made.materialization.metadata.items()}


def answering(body: dict[str, Any]) -> Turn:
    return says({"answer": body["messages"][-1]["content"]})


def failing(body: dict[str, Any]) -> Turn:
    asked = body["messages"][-1]["content"]
    return Turn(status=400) if asked in ("question 3", "question 8") else answering(body)


def test_partitions_are_runs_of_their_own_and_together_all_tasks(world: World) -> None:
    keys = [f"{n}-of-3" for n in (1, 2, 3)]
    defs = world.definitions(partitions=3)
    schedule = defs.resolve_schedule_def("clerk_batch_schedule")
    at = datetime(2026, 3, 1, 6, tzinfo=UTC)
    with dg.build_schedule_context(
        world.instance, scheduled_execution_time=at, repository_def=defs.get_repository_def()
    ) as context:
        ticked = schedule.evaluate_tick(context)
    assert [request.partition_key for request in ticked.run_requests] == keys

    with ScriptedModel(answering) as model:
        results = [world.run(model, partitions=3, key=key) for key in keys]
        asked = [body["messages"][-1]["content"] for body in model.requests]
    assert all(result.success for result in results)
    assert sorted(asked) == sorted(f"question {n}" for n in range(TASKS))
    counts = [metadata_of(result)["tasks"] for result in results]
    assert sum(counts) == TASKS
    assert all(0 < count < TASKS for count in counts)
    found = newest_of_all_partitions(world.state.engine(), "clerk")
    assert {batch.partition: batch.tasks for batch in found} == dict(zip(keys, counts, strict=True))


def test_a_partition_is_held_alone_and_the_others_not(world: World) -> None:
    with ScriptedModel(answering) as model, leases.hold(world.state.engine(), "agent clerk 1-of-3"):
        assert not world.run(model, partitions=3, key="1-of-3").success
        assert world.run(model, partitions=3, key="2-of-3").success


def test_a_partition_without_a_task_ends_well(world: World) -> None:
    (world.assets / "clerk" / "questions.csv").write_text("task_id,question\nt0,question 0\n")
    with ScriptedModel(answering) as model:
        results = [world.run(model, partitions=2, key=key) for key in ("1-of-2", "2-of-2")]
    assert all(result.success for result in results)
    assert sorted(metadata_of(result)["tasks"] for result in results) == [0, 1]


def test_the_launchpad_reruns_what_failed_and_reports_the_whole(world: World) -> None:
    with ScriptedModel(failing) as model:
        first = metadata_of(world.run(model))
    assert (first["outcome_ok"], first["outcome_model"]) == (TASKS - 2, 2)
    # What is answered anew is on record: that its source has changed since is another matter.
    (world.assets / "clerk" / "questions.csv").write_text("question\nanother?\n")
    with ScriptedModel(answering) as model:
        result = world.run(model, rerun_failed=True)
        assert len(model.requests) == 2
    again = metadata_of(result)
    assert (again["tasks"], again["outcome_ok"], again["resumed"]) == (TASKS, TASKS, TASKS - 2)
    assert again["batch"] != first["batch"]
    (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "completion"]
    assert check.passed


def test_the_answers_of_all_partitions_go_out_as_one_file(world: World, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    arguments = ["answers", "clerk", "--output", str(output), "--assets", str(world.assets)]
    environment = {
        "STATE_DATABASE_URL": str(world.state.url),
        "AGENT_PIPELINES_STATE_DIR": str(tmp_path / "state"),
    }

    def written(*more: str) -> Any:
        return CliRunner().invoke(cli.app, [*arguments, *more, "--json"], env=environment)

    with ScriptedModel(failing) as model:
        world.run(model, partitions=2, key="1-of-2")
        assert "no batch on record of 2-of-2" in str(written().exception)
        world.run(model, partitions=2, key="2-of-2")
    said = json.loads(written().stdout)
    assert (said["rows"], len(said["batches"])) == (TASKS, 2)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert {line["custom_id"] for line in lines} == {f"t{n}" for n in range(TASKS)}
    assert {line["custom_id"] for line in lines if line["error"]} == {"t3", "t8"}
    one = json.loads(written("--batch", said["batches"][0]).stdout)
    assert 0 < one["rows"] < TASKS
    assert "has no batch 'nope' on record" in str(written("--batch", "nope").exception)


def test_a_command_runs_every_partition(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.definitions(partitions=3)
    monkeypatch.setenv("AGENT_PIPELINES_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("STATE_DATABASE_URL", str(world.state.url))
    # Nothing is started where one is configured, and this agent asks neither of these.
    monkeypatch.setenv("WEAVIATE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SEARCH_TOOL_URL", "http://127.0.0.1:9/mcp")
    monkeypatch.setenv("LLM_MODEL", MODEL)
    quiet = Console(file=io.StringIO())
    with ScriptedModel(failing) as model:
        monkeypatch.setenv("LLM_BASE_URL", model.base_url)
        with open_session(Settings(), world.assets) as session:
            first = run_batch(session, quiet, "clerk", {})
            assert len(model.requests) >= TASKS
    assert first.outcome is not None
    assert [check.name for check in first.outcome.checks].count("completion") == 3
    said = first.as_json()
    assert (said["tasks"], said["outcomes"]) == (TASKS, {"ok": TASKS - 2, "model": 2})
    with ScriptedModel(answering) as model:
        monkeypatch.setenv("LLM_BASE_URL", model.base_url)
        with open_session(Settings(), world.assets) as session:
            again = run_batch(session, quiet, "clerk", {"rerun_failed": True})
        assert len(model.requests) == 2
    assert (again.error, again.as_json()["outcomes"]) == (None, {"ok": TASKS})


def test_runs_of_partitions_read_as_one() -> None:
    one, two = (
        JobOutcome(name, True, None, {"answers": values}, ())
        for name, values in (
            ("a", {"tasks": 2, "outcome_ok": 2, "latency_p95": 3.0, "tokens_per_second": 9.0}),
            ("b", {"tasks": 3, "outcome_model": 3, "latency_p95": 1.0, "tokens_per_second": 5.0}),
        )
    )
    assert one.then(two).metadata["answers"] == {
        "tasks": 5,
        "outcome_ok": 2,
        "outcome_model": 3,
        "latency_p95": 3.0,
        "tokens_per_second": 5.0,
    }


def test_another_file_is_of_the_kind_that_it_says(world: World, tmp_path: Path) -> None:
    request = {"model": "x", "messages": [{"role": "user", "content": "why?"}]}
    lines = {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": request}
    other = tmp_path / "requests.jsonl"
    other.write_text(json.dumps(lines))
    with ScriptedModel(answering) as model:
        assert metadata_of(world.run(model, tasks=str(other)))["outcome_ok"] == 1
        assert not world.run(model, tasks=str(tmp_path / "requests.xlsx")).success
    assert [body["messages"][-1]["content"] for body in model.requests] == ["why?"]
