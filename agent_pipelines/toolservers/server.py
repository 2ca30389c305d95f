"""What a tool server is to the command that serves it.

Belongs here: the one thing that each module of a shipped server exports, as `TOOL_SERVER`. Does not
belong here: any tool, and how it is served (`shell`).
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from mcp.server import MCPServer

#: None when what the tools depend on answers, else why not, in words for a person.
Readiness = Callable[[], Awaitable[str | None]]


@dataclass(frozen=True)
class Opened:
    """A server with its connections open."""

    server: MCPServer
    ready: Readiness


@dataclass(frozen=True)
class ToolServer:
    """A tool server that is shipped here, closed again with the context that ``open`` gives.

    ``open`` raises `UserError` for a setting that is missing or wrong, before anything is served.
    """

    name: str
    summary: str
    open: Callable[[], AbstractContextManager[Opened]]
