"""Every way to start a batch whose model needs a GPU: the run's pod claims it, exactly once.

Dagster's own daemon, webserver and code server are at work. Nothing leaves the queue: what
Dagster's launcher would make of a run's tags is looked at here, and that it does so in a cluster in
`tests/cluster`.
"""

import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster_k8s.job import get_user_defined_k8s_config
from sqlalchemy import insert

from agent_pipelines.components.agent_sensor import BATCH_TAG
from agent_pipelines.state.engine import open_engine, write
from agent_pipelines.state.tables import batches
from tests.cluster.programs import Program
from tests.dagster_ui import LOCATION, Run, Webserver
from tests.loopback import free_port
from tests.processes import listening, until

#: Longer than what ticks every minute takes.
_TICKS = 100

LLM = """\
type: agent_pipelines.components.LlmComponent
attributes:
  server: {kind: spawn, claim: {}}
"""
AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes:
  instructions: Answer.
  llm: %s
%s
"""
#: As a user gives an agent a condition of Dagster's own.
AUTOMATED = """
post_processing:
  assets:
    - target: "key:*/answers"
      attributes:
        automation_condition: "{{ dg.AutomationCondition.missing() }}"
"""
AUTOMATION = """
import dagster as dg

automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
)
"""
DAGSTER = {
    "telemetry": {"enabled": False},
    "run_coordinator": {
        "module": "agent_pipelines.components.run_coordinator",
        "class": "ClaimingRunCoordinator",
        "config": {"max_concurrent_runs": 0},
    },
    "run_retries": {"enabled": True, "max_retries": 1},
    "auto_materialize": {"use_sensors": True},
}


class World:
    """Dagster over a folder of agents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for path, text in {
            "assets/big/defs.yaml": LLM,
            "assets/small/defs.yaml": LLM,
            "assets/gateway/defs.yaml": LLM.replace(
                "{kind: spawn, claim: {}}", "{kind: endpoint, url: 'https://gateway/v1'}"
            ),
            "assets/triage/defs.yaml": AGENT % ("big", ""),
            "assets/hourly/defs.yaml": AGENT % ("big", "  schedule: '* * * * *'"),
            "assets/split/defs.yaml": AGENT % ("big", "  partitions: 2"),
            "assets/automated/defs.yaml": AGENT % ("big", AUTOMATED),
            "assets/other/defs.yaml": AGENT % ("small", ""),
            "assets/remote/defs.yaml": AGENT % ("gateway", ""),
            "assets/automation/sensor.py": AUTOMATION,
            "home/dagster.yaml": yaml.safe_dump(DAGSTER),
        }.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        code, web = free_port(), free_port()
        server = {"host": "127.0.0.1", "port": code, "location_name": LOCATION}
        workspace = folder / "workspace.yaml"
        workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
        self.instance = dg.DagsterInstance.from_config(str(folder / "home"))
        self.engine = open_engine(f"sqlite:///{folder / 'state.db'}")
        self.ui = Webserver(f"http://127.0.0.1:{web}")
        location = ("-m", "agent_pipelines.definitions", "-p", code)
        self._programs = [self._start("dagster", "api", "grpc", *location)]
        try:
            # A daemon that finds no code location looks for it again after a minute.
            self._programs[0].await_ready(lambda: listening(code), 60)
            self._programs += [
                self._start("dagster_webserver", "-w", workspace, "-p", web),
                self._start("dagster._daemon", "run", "-w", workspace),
            ]
            self._programs[1].await_ready(self.ui.answers, 60)
        except BaseException:
            self.end()
            raise

    def _start(self, module: str, *arguments: Any) -> Program:
        return Program(
            [sys.executable, "-m", module, *map(str, arguments)],
            self.folder / f"{module}.log",
            cwd=self.folder,
            environment={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "DAGSTER_HOME": str(self.folder / "home"),
                "AGENT_PIPELINES_STATE_DIR": str(self.folder),
                "AGENT_PIPELINES_ASSETS": str(self.folder / "assets"),
            },
        )

    def end(self) -> None:
        for program in self._programs:
            program.end()
        self.instance.dispose()

    def wait_for(self, what: str, found: Callable[[Run], Any]) -> Run:
        """A submitted run of which this is true."""

        def one() -> Run | None:
            runs = (run for run in self.ui.runs() if run.status != "NOT_STARTED")
            return next(filter(found, runs), None)

        return until(one, _TICKS, what)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("dagster"))
    try:
        yield made
    finally:
        made.end()


def claims(run: Run) -> list[str]:
    """The templates by which the pod of a run claims what its container uses."""
    config = get_user_defined_k8s_config(run.tags)
    used = [claim["name"] for claim in config.container_config.get("resources", {})["claims"]]
    found = {
        claim["name"]: claim["resource_claim_template_name"]
        for claim in config.pod_spec_config["resource_claims"]
    }
    assert sorted(found) == used
    return list(found.values())


def job(world: World) -> Run:
    return world.ui.run(world.ui.launch("triage_batch"))


def materialize(world: World) -> Run:
    return world.ui.run(world.ui.materialize("triage/answers"))


def reexecution(world: World) -> Run:
    first = world.ui.materialize("triage/answers")
    world.instance.report_run_canceled(world.instance.get_run_by_id(first))
    return world.ui.run(world.ui.reexecute(first))


def backfill(world: World) -> Run:
    started = world.ui.backfill("split/answers", ["1-of-2", "2-of-2"])
    return world.wait_for("a backfill's run", lambda r: r.tags.get("dagster/backfill") == started)


def schedule(world: World) -> Run:
    return world.wait_for("a schedule's run", lambda r: "dagster/schedule_name" in r.tags)


def automation(world: World) -> Run:
    return world.wait_for(
        "an automation's run", lambda r: "dagster/from_automation_condition" in r.tags
    )


def sensor(world: World) -> Run:
    """Of the agent's own sensor, for a batch that waited for its model server."""
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    with write(world.engine) as connection:
        connection.execute(
            insert(batches).values(
                batch_id="waited",
                agent="triage",
                state="waiting",
                false_signals=[],
                started_at=long_ago,
                resumption={},
                waits_for="the model server",
                wait_reason="down",
                waits=1,
                resume_from=long_ago,
                resume_at=long_ago,
            )
        )
    return world.wait_for("the sensor's run", lambda r: BATCH_TAG in r.tags)


def retry(world: World) -> Run:
    first = world.ui.materialize("triage/answers")
    world.instance.report_run_failed(world.instance.get_run_by_id(first))
    return world.wait_for("the retry", lambda r: r.parent == first)


@pytest.mark.parametrize(
    "start", [job, materialize, reexecution, backfill, sensor, retry, automation, schedule]
)
def test_every_way_to_start_a_batch_claims_the_gpu_of_its_model(
    world: World, start: Callable[[World], Run]
) -> None:
    run = start(world)
    assert claims(run) == ["llm-big"]
    assert run.status == "QUEUED"
    assert run.tags["agent-pipelines/claim"] == "llm-big"
    # A queue for GPUs is no queue for what needs none.
    assert int(run.tags["dagster/priority"]) < 0


def test_a_run_of_two_agents_with_one_llm_claims_one_gpu(world: World) -> None:
    run = world.ui.materialize("triage/answers", "hourly/answers")
    assert claims(world.ui.run(run)) == ["llm-big"]


def test_a_run_that_would_need_two_claims_fails_at_once_and_says_so(world: World) -> None:
    run = world.ui.materialize("triage/answers", "other/answers")
    assert world.ui.run(run).status == "FAILURE"
    assert "by 2 claims (llm-big, llm-small)" in world.ui.log(run)


def test_what_needs_no_gpu_of_its_own_claims_none(world: World) -> None:
    run = world.ui.run(world.ui.materialize("remote/answers"))
    assert not any("k8s" in tag or "claim" in tag for tag in run.tags)
