"""A benchmark's tools as a tool server on our own shell, each in a world that every call names.

Belongs here: the worlds, and serving from the command line: PORT PROBES_PORT. Does not belong here:
which tools there are (`agentdojo`, `bfcl`).
"""

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from agent_pipelines.toolservers.shell import Options, serve

_Case = TypeVar("_Case")
_World = TypeVar("_World")


class Worlds(Generic[_Case, _World]):
    """One for each case, made when it is first named: a server with them needs no session."""

    def __init__(
        self, noun: str, cases: Callable[[], Mapping[str, _Case]], make: Callable[[_Case], _World]
    ) -> None:
        self._noun = noun
        self._cases = cases
        self._make = make
        self._made: dict[str, _World] = {}

    def __call__(self, key: str) -> _World:
        """The world of a case.

        Raises:
            ToolError: there is no such case.
        """
        if key not in self._cases():
            raise ToolError(f"there is no {self._noun} {key!r}")
        if key not in self._made:
            self._made[key] = self._make(self._cases()[key])
        return self._made[key]


async def _ready() -> None:
    return None


def serve_here(server: MCPServer) -> None:
    """Serve on the ports that the command line names."""
    port, probes_port = map(int, sys.argv[1:])
    options = Options.from_environment(port=port, probes_port=probes_port)
    asyncio.run(serve(server, ready=_ready, options=options))
