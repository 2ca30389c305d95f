"""Whether a pod is healthy, and why not: from its object alone, as the API server gives it.

Belongs here: what the fields of a pod's status mean together. Does not belong here: reading them
(`cluster`).

A pod's phase says little: a container that crashes every minute is in a pod that is Running, and so
is one that has never been ready. What counts is each container's state, the conditions, and whether
what has ended was meant to end.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from agent_pipelines.toolservers.kubernetes.wording import ago, short, when

Health = Literal["healthy", "unhealthy", "starting", "ending"]

#: Of a container that waits: it is merely being made.
_BEING_MADE = ("", "ContainerCreating", "PodInitializing")

#: A pod that has been in the making for longer than this is stuck: a volume that cannot be mounted
#: has no other sign than an event.
_STARTING_SECONDS = 600.0

#: A pod that outlives its own grace period by this is stuck: a finalizer, or a node that is gone.
_ENDING_SECONDS = 60.0

#: kubelet forgives a crash once the container has run for this long (twice its longest back-off);
#: before that, one that runs at this moment may just be between two crashes.
_FORGIVEN_SECONDS = 600.0


class LastEnd(BaseModel):
    """How the container's previous run ended."""

    reason: str = Field(description="OOMKilled, Error, Completed, …")
    exit_code: int
    ended_at: datetime | None
    message: str


class Container(BaseModel):
    """One container of a pod."""

    name: str
    kind: Literal["main", "init", "sidecar"]
    state: Literal["running", "waiting", "terminated"]
    reason: str = Field(description="Why it waits or has ended; empty while it runs.")
    message: str
    exit_code: int | None
    since: datetime | None = Field(description="Running, or ended, since.")
    ready: bool
    restarts: int
    image: str
    last_end: LastEnd | None


class Problem(BaseModel):
    """One thing that is wrong."""

    container: str | None = Field(description="Null: it is about the whole pod.")
    reason: str
    message: str


class PodStatus(BaseModel):
    """A pod, and whether it is healthy."""

    name: str
    health: Health = Field(
        description="healthy: it does its work, or has completed it. starting: it is not running "
        "yet, and nothing is wrong. ending: it was told to end."
    )
    problems: list[Problem]
    phase: str = Field(description="As Kubernetes gives it; Running does not mean healthy.")
    ready: str = Field(description="Containers ready, of those that should be.")
    restarts: int
    created_at: datetime | None
    node: str | None
    owner: str | None = Field(description="What made it, such as `ReplicaSet/api-5d9f`.")
    containers: list[Container]


def assess(pod: Mapping[str, Any], now: datetime) -> PodStatus:
    """The state of a pod at this moment."""
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    status = pod.get("status") or {}
    phase = str(status.get("phase") or "Unknown")
    containers = list(_containers(spec, status))
    serving = [container for container in containers if container.kind != "init"]
    health, problems = _judge(pod, phase, containers, now)
    owner = next(iter(metadata.get("ownerReferences") or []), None)
    return PodStatus(
        name=metadata["name"],
        health=health,
        problems=problems,
        phase=phase,
        ready=f"{sum(container.ready for container in serving)}/{len(serving)}",
        restarts=sum(container.restarts for container in containers),
        created_at=when(metadata.get("creationTimestamp")),
        node=spec.get("nodeName"),
        owner=f"{owner['kind']}/{owner['name']}" if owner else None,
        containers=containers,
    )


def _judge(
    pod: Mapping[str, Any], phase: str, containers: Sequence[Container], now: datetime
) -> tuple[Health, list[Problem]]:
    if phase == "Succeeded":
        return "healthy", []
    problems = list(_problems(pod, phase, containers, now))
    # Set to the moment at which it should be gone.
    gone_by = when(pod["metadata"].get("deletionTimestamp"))
    if gone_by is not None:
        late = (now - gone_by).total_seconds()
        if late < _ENDING_SECONDS:
            return "ending", problems
        message = f"it should have been gone {ago(late)}"
        finalizers = pod["metadata"].get("finalizers")
        if finalizers:
            message += f"; finalizers that are not done: {', '.join(finalizers)}"
        problems.insert(0, Problem(container=None, reason="StuckTerminating", message=message))
    if problems:
        return "unhealthy", problems
    if phase == "Running":
        return "healthy", []
    created = when(pod["metadata"].get("creationTimestamp"))
    waited = (now - created).total_seconds() if created else 0.0
    if waited < _STARTING_SECONDS:
        return "starting", []
    reasons = {f"{c.name}: {c.reason}" for c in containers if c.state == "waiting" and c.reason}
    message = f"made {ago(waited)} and still {phase} ({'; '.join(sorted(reasons)) or 'no reason'})"
    message += "; `list_events` about this pod may say what it waits for"
    return "unhealthy", [Problem(container=None, reason="StillStarting", message=message)]


def _problems(
    pod: Mapping[str, Any], phase: str, containers: Sequence[Container], now: datetime
) -> Iterator[Problem]:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    conditions = {entry["type"]: entry for entry in status.get("conditions") or []}
    always = spec.get("restartPolicy", "Always") == "Always"
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        yield Problem(
            container=None,
            reason=str(scheduled.get("reason") or "Unschedulable"),
            message=short(scheduled.get("message") or ""),
        )
    explained = False
    unstarted = {
        entry["name"]
        for entry in status.get("containerStatuses") or []
        if entry.get("started") is False
    }
    for container in containers:
        found = _container_problem(
            container, phase, always=always, started=container.name not in unstarted, now=now
        )
        if found is not None:
            explained = True
            yield found
    if phase in ("Failed", "Unknown") and (status.get("reason") or not explained):
        yield Problem(
            container=None,
            reason=str(status.get("reason") or phase),
            message=short(status.get("message") or ""),
        )
    ready = conditions.get("Ready", {})
    # A Job's pod whose first container is done is not Ready any more, and has nothing wrong.
    done = any(container.exit_code == 0 and container.kind == "main" for container in containers)
    if phase == "Running" and ready.get("status") != "True" and not explained and not done:
        yield Problem(
            container=None,
            reason=str(ready.get("reason") or "NotReady"),
            message=short(ready.get("message") or "the pod is not ready"),
        )


def _container_problem(
    container: Container, phase: str, *, always: bool, started: bool, now: datetime
) -> Problem | None:
    """What is wrong with this container, if anything."""
    last = container.last_end
    before = ""
    if last is not None:
        age = (now - last.ended_at).total_seconds() if last.ended_at else None
        before = f"; its last run ended with {last.reason}, exit code {last.exit_code}"
        before += f", {ago(age)}" if age is not None else ""
    again = container.kind == "sidecar" or (always and container.kind == "main")
    match container.state:
        case "waiting" if container.reason not in _BEING_MADE:
            reason, message = container.reason, f"{container.message}{before}"
        case "terminated" if container.exit_code != 0:
            reason = container.reason or "Error"
            message = f"exit code {container.exit_code}; {container.message}".rstrip("; ")
        case "terminated" if again and phase == "Running":
            reason, message = "Completed", "it has ended, though it should go on for ever"
        case "running" if not container.ready and container.kind != "init" and phase == "Running":
            probe = "readiness" if started else "startup"
            reason, message = "NotReady", f"it runs, but its {probe} probe does not pass{before}"
        case "running" if _between_crashes(container, now):
            reason = "RestartsRepeatedly"
            message = f"{container.restarts} restarts; it runs at this moment{before}"
        case _:
            return None
    return Problem(container=container.name, reason=reason, message=short(message.lstrip("; ")))


def _between_crashes(container: Container, now: datetime) -> bool:
    last = container.last_end
    if last is None or last.exit_code == 0 or container.restarts < 2 or container.since is None:
        return False
    return (now - container.since).total_seconds() < _FORGIVEN_SECONDS


def _containers(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[Container]:
    """Every container of the pod, in its order; one without a status yet waits."""
    for field, statuses in (
        ("initContainers", "initContainerStatuses"),
        ("containers", "containerStatuses"),
    ):
        known = {entry["name"]: entry for entry in status.get(statuses) or []}
        for declared in spec.get(field) or []:
            kind: Literal["main", "init", "sidecar"] = "main"
            if field == "initContainers":
                # An init container that is restarted always runs beside the others.
                kind = "sidecar" if declared.get("restartPolicy") == "Always" else "init"
            entry = known.get(declared["name"], {})
            yield _container(declared, entry, kind)


def _container(
    declared: Mapping[str, Any],
    entry: Mapping[str, Any],
    kind: Literal["main", "init", "sidecar"],
) -> Container:
    states = entry.get("state") or {}
    running, terminated = states.get("running"), states.get("terminated")
    waiting = states.get("waiting") or {}
    last = (entry.get("lastState") or {}).get("terminated")
    ended = terminated or {}
    return Container(
        name=declared["name"],
        kind=kind,
        state="terminated"
        if terminated is not None
        else "running"
        if running is not None
        else "waiting",
        reason=str(ended.get("reason") or waiting.get("reason") or ""),
        message=short(ended.get("message") or waiting.get("message") or ""),
        exit_code=ended.get("exitCode"),
        since=when(ended.get("finishedAt") or (running or {}).get("startedAt")),
        ready=bool(entry.get("ready")),
        restarts=int(entry.get("restartCount") or 0),
        image=str(declared.get("image") or ""),
        last_end=None
        if last is None
        else LastEnd(
            reason=str(last.get("reason") or ""),
            exit_code=int(last.get("exitCode") or 0),
            ended_at=when(last.get("finishedAt")),
            message=short(last.get("message") or ""),
        ),
    )
