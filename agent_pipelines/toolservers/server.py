"""What a tool server is to the command that serves it.

Belongs here: the one thing that each module of a shipped server exports, as `TOOL_SERVER`. Does not
belong here: any tool, and how it is served (`shell`).
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from mcp.server import MCPServer, Server

#: What can be served: tools written as functions, or the SDK's lower level, where schemas and
#: results are passed on as they are.
AnyServer = MCPServer | Server[Any]

#: None when what the tools depend on answers, else why not, in words for a person.
Readiness = Callable[[], Awaitable[str | None]]


@dataclass(frozen=True)
class Opened:
    """A server with its connections open."""

    server: AnyServer
    ready: Readiness


@dataclass(frozen=True)
class ToolServer:
    """A tool server that is shipped here, closed again with the context that ``open`` gives.

    ``open`` raises `UserError` for a setting that is missing or wrong, before anything is served.
    """

    name: str
    summary: str
    open: Callable[[], AbstractContextManager[Opened]]


async def has_tool(server: AnyServer, name: str) -> bool:
    """Whether it has a tool of this name, as far as it knows without asking anybody.

    A server of the lower level knows as much as its ``get_tool_input_schema`` does.
    """
    if isinstance(server, MCPServer):
        return name in {tool.name for tool in await server.list_tools()}
    schema_of = server.get_tool_input_schema
    return schema_of is not None and schema_of(name) is not None
