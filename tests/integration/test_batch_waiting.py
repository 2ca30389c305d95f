"""A batch whose model server is down, as Dagster runs it: its run ends, the sensor starts it again
once the server answers, and nothing is asked twice.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import select

from agent_pipelines.agents import parking
from agent_pipelines.agents.batch import BatchReport
from agent_pipelines.agents.dispatch import Ending
from agent_pipelines.agents.tally import Tally
from agent_pipelines.commands.results import Result
from agent_pipelines.components.agent_report import results
from agent_pipelines.components.agent_run import Ended
from agent_pipelines.components.agent_sensor import BATCH_TAG
from agent_pipelines.definitions import build_defs
from agent_pipelines.session import CheckOutcome, JobOutcome
from agent_pipelines.state.tables import answers, batches
from resources.llm import LlmResource
from resources.state import StateResource
from resources.tools import ToolServerResource
from tests.batches import script
from tests.clock import pass_time
from tests.loopback import free_port
from tests.orders_server import OrdersServer, orders
from tests.scripted_model import MODEL, ScriptedModel

TASKS = 3

SERVER = """\
type: agent_pipelines.components.ToolServerComponent
attributes:
  url: http://localhost/mcp
"""
AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes:
  instructions: Answer.
  tools: [read]
  tool_servers: [orders]
  concurrency: 2
  wait_minutes: 0.01
"""
ANSWERS = dg.AssetKey(["clerk", "answers"])


class World:
    """An agent with a tool server that answers, and a model server that does not yet."""

    def __init__(self, folder: Path, server: OrdersServer, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.server = server
        self.model = ScriptedModel(script(("read",)))
        self.model.port = free_port()
        self.state = StateResource(url=f"sqlite:///{folder / 'state.db'}")
        tasks = [json.dumps({"task_id": f"o{n}", "question": f"o{n}"}) for n in range(TASKS)]
        for path, text in {
            "orders/defs.yaml": SERVER,
            "clerk/defs.yaml": AGENT,
            "clerk/tasks.jsonl": "\n".join(tasks),
        }.items():
            file = folder / "assets" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.resources: dict[str, Any] = {
            "state": self.state,
            "llm": LlmResource(base_url=self.model.base_url, model=MODEL),
            "tools_orders": ToolServerResource(name="orders", url=server.url),
        }
        self.defs = build_defs(assets=folder / "assets", resource_overrides=self.resources)

    def run(self, **tags: str) -> Any:
        return self.defs.resolve_job_def("clerk_batch").execute_in_process(
            instance=self.instance, tags=tags, raise_on_error=False
        )

    def look(self) -> Any:
        """What the sensor asks for, or why for nothing."""
        sensor = self.defs.resolve_sensor_def("clerk_sensor")
        context = dg.build_sensor_context(instance=self.instance, resources=self.resources)
        return sensor.evaluate_tick(context)

    def batch(self) -> Any:
        with self.state.engine().connect() as connection:
            return connection.execute(batches.select()).one()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(parking, "_FIRST", 0.05)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance, orders(tmp_path) as server:
        yield World(tmp_path, server, instance)


def completion(result: Any) -> Any:
    (found,) = (c for c in result.get_asset_check_evaluations() if c.check_name == "completion")
    return found


def test_it_is_started_again_by_itself_and_goes_on_where_it_was(world: World) -> None:
    first = world.run()
    assert first.success
    assert world.instance.get_latest_materialization_event(ANSWERS) is None
    assert not completion(first).passed
    assert completion(first).severity is dg.AssetCheckSeverity.WARN, "nothing is wrong yet"
    assert "the rest waits for the model server" in completion(first).description
    assert "The agent's sensor starts it again, by" in completion(first).description
    assert world.batch().state == "waiting"

    # Not at once, and not while nothing answers there.
    engine = world.state.engine()
    assert world.look().run_requests == []
    pass_time(engine, timedelta(minutes=2))
    tick = world.look()
    assert tick.run_requests == []
    assert "waits for the model server" in tick.skip_message
    with world.model:
        (request,) = world.look().run_requests
        assert request.tags[BATCH_TAG] == world.batch().batch_id
        assert world.look().run_requests == []

        # By then its tool server is down: it waits on, for longer, and no run has failed.
        world.server.stop()
        again = world.run(**request.tags)
        assert again.success
        assert "waits for orders" in completion(again).description
        assert (world.batch().state, world.batch().waits) == ("waiting", 2)
        pass_time(engine, timedelta(hours=1))
        world.server.start()
        (request,) = world.look().run_requests
        last = world.run(**request.tags)
    assert last.success
    assert completion(last).passed
    event = world.instance.get_latest_materialization_event(ANSWERS)
    assert event is not None
    assert event.asset_materialization is not None
    page = Path(str(event.asset_materialization.metadata["trace"].value))
    assert not page.is_relative_to(Path(__file__).parents[2]), "a test writes into the checkout"
    assert world.batch().state == "finished"
    assert world.look().run_requests == []
    assert len(world.model.requests) == 2 * TASKS
    with engine.connect() as connection:
        assert connection.execute(select(answers.c.outcome)).scalars().all() == ["ok"] * TASKS


def test_who_runs_it_from_the_command_line_is_told_that_it_is_not_finished() -> None:
    def of(ending: str, **outcomes: int) -> Result:
        report = BatchReport(
            batch_id="b",
            tasks=20,
            resumed=0,
            answered=sum(outcomes.values()),
            outcomes=outcomes,
            citations=0,
            citations_not_retrieved=0,
            prompt_tokens=0,
            completion_tokens=0,
            seconds=1.0,
            latency_p50=1.0,
            latency_p95=1.0,
            labels={},
            ending=Ending(ending, "orders", "it is down"),  # type: ignore[arg-type]
            resume_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        ended = Ended(report, MODEL, None, Tally(), {}, served=None, gpus=None)
        check = next(results(ended, tools=False, target_p95_seconds=None, targets=None))
        warns = check.severity is dg.AssetCheckSeverity.WARN
        said = CheckOutcome("answers", "completion", check.passed, warns, check.description or "")
        return Result("agent", "clerk", JobOutcome("r", True, None, {}, (said,)), None)

    waits = of("waiting", ok=18, model=1)
    assert (waits.ok, waits.failed_checks) == (False, [])
    assert "18 of 20 ok, 19 answered; the rest waits for orders" in waits.unfinished[0]
    # What has failed already cannot be put right by those that wait.
    assert of("waiting", ok=16, model=2).failed_checks == ["answers: completion"]
    assert of("budget", ok=18).failed_checks == ["answers: completion"]
    assert of("finished", ok=19, model=1).ok


def test_a_run_with_a_config_of_its_own_is_started_again_with_it(world: World) -> None:
    """A run with a config of its own is started again with that config."""
    config = {"ops": {"clerk__answers": {"config": {"tasks": None}}}}
    world.defs.resolve_job_def("clerk_batch").execute_in_process(
        instance=world.instance, run_config=config
    )
    pass_time(world.state.engine(), timedelta(minutes=10))
    (request,) = world.look().run_requests
    assert request.run_config == config
