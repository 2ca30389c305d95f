"""The end of what a container has printed, within a size that a model can read.

Belongs here: which part of a log is shown, and saying so. Does not belong here: what it means.
What programs print is theirs: nothing in it is masked.
"""

from pydantic import BaseModel, Field

from agent_pipelines.toolservers.kubernetes.cluster import Cluster

#: Lines that may be asked for.
LINES = 2_000

#: Bytes of an answer.
_SHOWN = 48_000

#: Bytes that are read. The API server counts from the first of the lines that are asked for, so
#: that the newest are missing where this is not enough.
_READ = 4_000_000


class Log(BaseModel):
    """The end of a container's log."""

    pod: str
    container: str | None = Field(description="Null: its only one.")
    previous: bool = Field(description="Whether this is the run before the present one.")
    lines: int
    truncated: str | None = Field(
        description="What is missing, besides lines before those that were asked for."
    )
    text: str


def tail(
    cluster: Cluster,
    namespace: str,
    pod: str,
    *,
    container: str | None,
    previous: bool,
    lines: int,
) -> Log:
    """The last ``lines`` lines; raises what `Cluster` raises."""
    query: dict[str, str | int] = {"tailLines": lines, "limitBytes": _READ}
    if container:
        query["container"] = container
    if previous:
        query["previous"] = "true"
    content = cluster.log(pod, namespace, query)
    truncated = None
    if len(content) >= _READ:
        truncated = f"{lines} lines have more than {_READ} bytes: the newest are missing; "
        truncated += "ask for fewer lines"
    elif len(content) > _SHOWN:
        truncated = f"the first {len(content) - _SHOWN} of {len(content)} bytes"
    text = content[-_SHOWN:].decode(errors="replace")
    return Log(
        pod=pod,
        container=container,
        previous=previous,
        lines=len(text.splitlines()),
        truncated=truncated,
        text=text,
    )
