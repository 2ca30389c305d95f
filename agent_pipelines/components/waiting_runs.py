"""The sensor that writes into a run's events why its pod does not run.

Belongs here: saying it once, and again when it changes. Does not belong here: finding it out
(`resources/kubernetes.py`), or whether it lasts too long (`health/machinery/runs_scheduled.py`).
"""

import json

import dagster as dg

from agent_pipelines.errors import UnavailableError
from agent_pipelines.settings import Settings

NAME = "waiting_runs_sensor"

#: Seconds between two looks.
INTERVAL = 30


def build() -> dg.Definitions:
    """The sensor, switched on, where the code location is a pod itself; else nothing."""
    return dg.Definitions(sensors=[waiting_runs] if Settings().kubernetes_service_host else [])


@dg.sensor(
    name=NAME,
    minimum_interval_seconds=INTERVAL,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Writes into the events of a run why its pod does not run: no device is free, an "
    "image cannot be pulled, …",
)
def waiting_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Report what has changed since the last look."""
    from resources.orchestrator import DagsterOrchestrator

    try:
        found = DagsterOrchestrator(context.instance, ()).waiting()
    except UnavailableError as error:
        return dg.SkipReason(error.message)
    before = json.loads(context.cursor or "{}")
    said = {one.run: f"Waits for its pod: {one.reason}: {one.message}" for one in found}
    for one in found:
        if before.get(one.run) != said[one.run]:
            run = context.instance.get_run_by_id(one.run)
            context.instance.report_engine_event(said[one.run], run)
    context.update_cursor(json.dumps(said))
    return dg.SkipReason("; ".join(said.values()) or "no run waits for its pod")
