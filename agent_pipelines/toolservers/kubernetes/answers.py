"""What the tools answer, as their output schemas tell it to a model.

Belongs here: the answers' shapes. Does not belong here: what is in them (`pods`, `deployments`,
`events`, `logs`), and how they are read (`server`).
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from agent_pipelines.toolservers.kubernetes.cluster import Reason
from agent_pipelines.toolservers.kubernetes.deployments import DeploymentStatus
from agent_pipelines.toolservers.kubernetes.events import Event
from agent_pipelines.toolservers.kubernetes.masking import MASK
from agent_pipelines.toolservers.kubernetes.pods import Health, PodStatus


class PodCheck(BaseModel):
    """Whether pods are healthy."""

    namespace: str
    healthy: bool = Field(description="Whether nothing that was looked at is unhealthy.")
    counts: dict[Health, int]
    pods: list[PodStatus] = Field(
        description="The pod that was asked for; of many, those that are not healthy, worst first."
    )
    truncated: str | None = Field(description="What was not looked at or is not shown.")


class PodRow(BaseModel):
    """One pod of a list."""

    name: str
    health: Health
    reasons: list[str] = Field(description="`check_pod_status` says more.")
    phase: str
    ready: str
    restarts: int
    created_at: datetime | None
    node: str | None
    owner: str | None


class PodList(BaseModel):
    """Pods in the order of their names."""

    namespace: str
    pods: list[PodRow]
    truncated: bool
    next: str | None = Field(description="Cursor of the rest of the list.")


class DeploymentList(BaseModel):
    """Deployments in the order of their names."""

    namespace: str
    deployments: list[DeploymentStatus]
    truncated: bool
    next: str | None = Field(description="Cursor of the rest of the list.")


class EventList(BaseModel):
    """Events, newest first. Kubernetes forgets them after an hour or so."""

    namespace: str
    events: list[Event]
    truncated: str | None = Field(description="What is not shown.")


class Described(BaseModel):
    """An object as Kubernetes has it, and what was reported of it."""

    kind: str
    name: str
    object: dict[str, Any] = Field(
        description=f"Values that may be secret read `{MASK}`: nobody can show them here."
    )
    events: list[Event] = Field(description="Newest first.")
    truncated: bool = Field(description="Whether long values of the object were cut or left out.")


class Refusal(BaseModel):
    """Why there is no answer, for programs; the text beside it says it to a model."""

    reason: Reason
