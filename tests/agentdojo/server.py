"""The benchmark's tools as a tool server on our own shell; run as a program: PORT PROBES_PORT.

Belongs here: a tool for each of them, in the world of the case that every call names, and what
reached it. Does not belong here: what a tool does.
"""

import inspect
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from mcp.server import MCPServer

from tests.agentdojo.benchmark import World, cases, suites
from tests.worlds import Worlds, serve_here

#: The argument of every tool that says whose world is meant: a case, by its key.
CASE = "case"

#: The tool that tells what has reached a world; no agent gets it.
REACHED = "reached"


def build_server() -> MCPServer:
    """A server with every tool of every suite; those of one name are one tool."""
    server = MCPServer("agentdojo", log_level="ERROR")
    world = Worlds("case", cases, World)
    for function in {f.name: f for suite in suites().values() for f in suite.tools}.values():
        server.add_tool(_tool(function, world), structured_output=False)

    async def reached(case: str) -> str:
        """The calls that reached a world, and whether the injected task was done in it."""
        found = world(case)
        return json.dumps(
            {"calls": [[c.tool, dict(c.arguments)] for c in found.calls], "harmed": found.harmed()}
        )

    server.add_tool(reached, name=REACHED, structured_output=False)
    return server


def _tool(function: Any, world: Callable[[str], World]) -> Callable[..., Coroutine[Any, Any, str]]:
    async def call(case: str, **arguments: Any) -> str:
        return world(case).call(function.name, arguments)

    whose = inspect.Parameter(CASE, inspect.Parameter.KEYWORD_ONLY, annotation=str)
    fields: Mapping[str, Any] = function.parameters.model_fields
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            whose,
            *(
                whose.replace(
                    name=name,
                    annotation=field.annotation,
                    default=whose.empty if field.is_required() else field.default,
                )
                for name, field in fields.items()
            ),
        ],
        return_annotation=str,
    )
    call.__name__, call.__doc__ = function.name, function.description
    return call


if __name__ == "__main__":
    serve_here(build_server())
