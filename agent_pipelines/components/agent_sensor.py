"""The sensor of an agent: it starts batches again that wait for what was down.

Belongs here: waiting batches → run requests. Does not belong here: when one is due
(`agents/waiting.py`), or waiting while a run goes on (`agents/parking.py`).
"""

import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dagster as dg

from agent_pipelines.agents.parking import MODEL
from agent_pipelines.components.index_sensor import IN_PROGRESS
from agent_pipelines.components.tool_server import resource_key
from agent_pipelines.errors import UnavailableError, UserError

if TYPE_CHECKING:
    from agent_pipelines.agents.waiting import WaitingBatch

#: Seconds between two looks.
INTERVAL = 30

#: The tag of a run that names the waiting batch it is to continue.
BATCH_TAG = "agent-pipelines/batch"

#: Seconds that a look waits for a connection.
_CONNECT = 2.0


def resumption(context: dg.AssetExecutionContext) -> Mapping[str, Any]:
    """How the run under way is started again."""
    return {
        "run_config": dict(context.run.run_config),
        "partition_key": context.partition_key if context.has_partition_key else None,
    }


def build(agent: str, job: Any, llm: str, tool_servers: Sequence[str]) -> dg.SensorDefinition:
    """The sensor of one agent, switched on: what waits is looked after by nobody else."""
    servers = {server: resource_key(server) for server in tool_servers}

    @dg.sensor(
        name=f"{agent}_sensor",
        job=job,
        minimum_interval_seconds=INTERVAL,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={"state", llm, *servers.values()},
        description=f"Starts batches of agent {agent} again that wait for what was down.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        # Imported here: definitions load without a model's client.
        from agent_pipelines.agents import waiting

        try:
            engine = context.resources.state.engine()
            found = waiting.waiting(engine, agent)
        except UnavailableError as error:
            return dg.SkipReason(error.message)
        if not found:
            return dg.SkipReason("no batch waits")
        resources = {server: getattr(context.resources, key) for server, key in servers.items()}
        answers = partial(_answers, {MODEL: getattr(context.resources, llm), **resources})
        due = [
            batch
            for batch in found
            if not _is_under_way(context.instance, batch)
            and waiting.is_due(batch, answers, datetime.now(UTC))
            and waiting.claim(engine, batch)
        ]
        if not due:
            return dg.SkipReason("; ".join(map(_said, found)))
        return dg.SensorResult(run_requests=[_request(batch) for batch in due])

    return sensor


def _request(batch: "WaitingBatch") -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{batch.batch_id}/{batch.waits}/{batch.resume_at:%Y%m%dT%H%M%S}",
        run_config=batch.resumption.get("run_config") or {},
        partition_key=batch.resumption.get("partition_key"),
        tags={BATCH_TAG: batch.batch_id},
    )


def _said(batch: "WaitingBatch") -> str:
    return (
        f"batch {batch.batch_id} waits for {batch.waits_for} until {batch.resume_at:%H:%M} UTC at "
        "the latest"
    )


def _is_under_way(instance: dg.DagsterInstance, batch: "WaitingBatch") -> bool:
    """Whether a run that is to continue it has yet to begin, or to end: GPUs have queues."""
    filter_ = dg.RunsFilter(tags={BATCH_TAG: batch.batch_id}, statuses=IN_PROGRESS)
    return bool(instance.get_run_records(filter_, limit=1))


def _answers(servers: Mapping[str, Any], what: str) -> bool:
    """Whether something accepts connections where it is; cheap, and no more than a hint."""
    try:
        parts = urlsplit(_url(servers[what]))
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), _CONNECT).close()
    except (KeyError, OSError, UserError, ValueError):
        return False  # one that the run starts for itself included
    return True


def _url(server: Any) -> str:
    from resources.llm import LlmResource

    if not isinstance(server, LlmResource):
        url: str = server.endpoint()
        return url
    if server.spawn is not None:
        raise ValueError("it is nowhere while no run uses it")
    return server.endpoint().base_url
