"""What the cluster's parts have reported about objects, newest first.

Belongs here: reading one event. Does not belong here: which of them a tool asks for.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from agent_pipelines.toolservers.kubernetes.wording import short, when


class Event(BaseModel):
    """One report, however often it was repeated."""

    last_seen: datetime | None
    first_seen: datetime | None
    count: int
    type: str = Field(description="Normal or Warning.")
    reason: str
    about: str = Field(description="Such as `Pod/api-5d9f-x7`.")
    message: str
    source: str


def read(event: Mapping[str, Any]) -> Event:
    """An event as the core API gives it, whichever of its two forms wrote it."""
    about = event.get("involvedObject") or {}
    series = event.get("series") or {}
    first = event.get("firstTimestamp") or event.get("eventTime")
    last = event.get("lastTimestamp") or series.get("lastObservedTime") or first
    return Event(
        last_seen=when(last or event["metadata"].get("creationTimestamp")),
        first_seen=when(first),
        count=int(event.get("count") or series.get("count") or 1),
        type=str(event.get("type") or ""),
        reason=str(event.get("reason") or ""),
        about=f"{about.get('kind', '')}/{about.get('name', '')}",
        message=short(event.get("message") or ""),
        source=str(
            event.get("reportingComponent") or (event.get("source") or {}).get("component") or ""
        ),
    )
