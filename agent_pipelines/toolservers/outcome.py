"""How a tool says that what it depends on is down, so that a circuit breaker can tell; and a tool
server, that no tool was called.

Belongs here: the marks, for whoever gives one and whoever reads one. Does not belong here: a tool's
ordinary errors, which are answers of a server that is well.
"""

from collections.abc import Mapping
from typing import Any

from mcp.types import CallToolResult, TextContent

#: Key of a result's `_meta`: the dependency that did not answer. A prefix of our own, as the
#: protocol asks of everybody's keys but its own.
OUTAGE = "agent-pipelines/outage"

#: In the data of a JSON-RPC error: no tool was called, so that the call may be made later, whatever
#: the tool.
NOT_SENT = "agent-pipelines/not-sent"


def outage(
    dependency: str, text: str, structured: Mapping[str, Any] | None = None
) -> CallToolResult:
    """An error that counts as an outage of the whole tool server.

    ``text`` is for the model: what it may tell its user, and that trying again at once is useless.
    """
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structured_content=dict(structured) if structured is not None else None,
        is_error=True,
        _meta={OUTAGE: dependency},
    )
