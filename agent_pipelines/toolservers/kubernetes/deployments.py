"""Whether a deployment has the pods that it should have, and why not.

Belongs here: what the fields of its status mean together. Does not belong here: its pods (`pods`).
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from agent_pipelines.toolservers.kubernetes.wording import short, when


class DeploymentStatus(BaseModel):
    """A deployment, and whether it is healthy."""

    name: str
    health: Literal["healthy", "unhealthy", "rolling out"] = Field(
        description="rolling out: on its way to what was asked for, and not late."
    )
    problems: list[str]
    desired: int
    updated: int = Field(description="Pods of the newest template.")
    ready: int
    available: int
    paused: bool
    images: list[str]
    created_at: datetime | None


def assess(deployment: Mapping[str, Any]) -> DeploymentStatus:
    """The state of a deployment, by what its controller says of it."""
    metadata, spec = deployment["metadata"], deployment.get("spec") or {}
    status = deployment.get("status") or {}
    desired = int(spec.get("replicas", 1))
    updated, available = (int(status.get(f"{n}Replicas") or 0) for n in ("updated", "available"))
    problems = list(_problems(status))
    seen = int(status.get("observedGeneration") or 0) >= int(metadata.get("generation") or 0)
    old = int(status.get("replicas") or 0) - updated
    if not problems and seen and (updated, available, old) == (desired, desired, 0):
        health: Literal["healthy", "unhealthy", "rolling out"] = "healthy"
    else:
        health = "unhealthy" if problems else "rolling out"
    template = (spec.get("template") or {}).get("spec") or {}
    return DeploymentStatus(
        name=metadata["name"],
        health=health,
        problems=problems,
        desired=desired,
        updated=updated,
        ready=int(status.get("readyReplicas") or 0),
        available=available,
        paused=bool(spec.get("paused")),
        images=[str(container.get("image", "")) for container in template.get("containers") or []],
        created_at=when(metadata.get("creationTimestamp")),
    )


def _problems(status: Mapping[str, Any]) -> Iterator[str]:
    """Conditions that are not as they should be."""
    conditions = {entry["type"]: entry for entry in status.get("conditions") or []}
    progress = conditions.get("Progressing", {})
    # Until its deadline, a rollout has every right to have too few pods yet.
    if progress.get("status") == "True" and progress.get("reason") != "NewReplicaSetAvailable":
        conditions.pop("Available", None)
    wanted = {"Available": "True", "Progressing": "True", "ReplicaFailure": "False"}
    for kind, condition in conditions.items():
        if condition["status"] != wanted.get(kind, condition["status"]):
            yield short(f"{condition.get('reason', '')}: {condition.get('message', '')}")
