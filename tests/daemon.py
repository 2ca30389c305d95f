"""What a daemon leaves in a Dagster instance, written without waiting half a minute for one.

Belongs here: heartbeats, states of sensors and schedules, and ticks. Does not belong here: runs,
which Dagster's own API makes.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import SerializableErrorInfo

from resources.orchestrator import Wanted


@contextmanager
def at_work(
    instance: dg.DagsterInstance, wanted: list[Wanted]
) -> Iterator[dict[str, InstigatorState]]:
    """As if one were alive, and ticked all of these in time; their states by name."""
    ended = threading.Event()

    def beat() -> None:
        while True:
            now = datetime.now(UTC).timestamp()
            for daemon in instance.get_required_daemon_types():
                instance.add_daemon_heartbeat(DaemonHeartbeat(now, daemon, "here", []))
            if ended.wait(20):
                return

    beating = threading.Thread(target=beat)
    beating.start()
    later = datetime.now(UTC).timestamp() + 3_600
    try:
        yield {
            one.name: knows(instance, InstigatorType.SENSOR, one.name, SensorInstigatorData(later))
            if one.kind == "sensor"
            else knows(
                instance, InstigatorType.SCHEDULE, one.name, ScheduleInstigatorData(one.cron, later)
            )
            for one in wanted
        }
    finally:
        ended.set()
        beating.join()


def origin(name: str, location: str = "agent_pipelines") -> RemoteInstigatorOrigin:
    target = LoadableTargetOrigin(python_file="definitions.py")
    code = ManagedGrpcPythonEnvCodeLocationOrigin(target, location_name=location)
    return RemoteInstigatorOrigin(RemoteRepositoryOrigin(code, "__repository__"), name)


def knows(
    instance: dg.DagsterInstance,
    kind: InstigatorType,
    name: str,
    data: Any,
    status: InstigatorStatus = InstigatorStatus.DECLARED_IN_CODE,
    location: str = "agent_pipelines",
) -> InstigatorState:
    state = InstigatorState(origin(name, location), kind, status, data)
    return instance.add_instigator_state(state)


def ticked(
    instance: dg.DagsterInstance, state: InstigatorState, at: datetime, status: TickStatus
) -> None:
    error = SerializableErrorInfo("no module named docs\n", [], "ImportError")
    instance.create_tick(
        TickData(
            instigator_origin_id=state.instigator_origin_id,
            instigator_name=state.instigator_name,
            instigator_type=state.instigator_type,
            status=status,
            timestamp=at.timestamp(),
            selector_id=state.selector_id,
            run_ids=[],
            error=error if status is TickStatus.FAILURE else None,
        )
    )
