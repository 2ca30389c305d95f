"""The benchmark's APIs as a tool server on our own shell; run as a program: PORT PROBES_PORT.

Belongs here: a tool for each of their methods. Does not belong here: what a method does.

The state belongs to a conversation that every call names, so that the server needs no session.
"""

import inspect
import json
from collections.abc import Callable, Coroutine
from typing import Any, get_args, get_origin

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from tests.bfcl.benchmark import World, entries, methods
from tests.worlds import Worlds, serve_here

#: The argument of every tool that says whose state is meant: a task, by its id.
CONVERSATION = "conversation"

#: The tool that shows a state; no agent gets it.
STATE = "final_state"

_CHANGES = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)


def build_server() -> MCPServer:
    """A server with a tool for every method of every API."""
    server = MCPServer("bfcl", log_level="ERROR")
    world = Worlds("conversation", entries, World)
    for method, (_, function) in methods().items():
        server.add_tool(
            _tool(method, function, world), annotations=_CHANGES, structured_output=False
        )

    async def final_state(conversation: str) -> str:
        """What a conversation's APIs hold now."""
        return json.dumps(world(conversation).state())

    server.add_tool(final_state, name=STATE, structured_output=False)
    return server


def _tool(
    method: str, function: Any, world: Callable[[str], World]
) -> Callable[..., Coroutine[Any, Any, str]]:
    async def call(conversation: str, **arguments: Any) -> str:
        try:
            return world(conversation).call(method, arguments)
        except ToolError:
            raise
        except Exception as error:
            # The benchmark shows its models what went wrong.
            raise ToolError(str(error)) from error

    signature = inspect.signature(function)
    conversation = inspect.Parameter(
        CONVERSATION, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str
    )
    _, *parameters = signature.parameters.values()
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[
            conversation,
            *(p.replace(annotation=_as_passed(p.annotation)) for p in parameters),
        ],
        return_annotation=str,
    )
    call.__name__, call.__doc__ = method, inspect.getdoc(function)
    return call


def _as_passed(annotation: Any) -> Any:
    """What the benchmark passes arrives as it is, not made to fit: states and messages show it.

    It passes whole numbers for any number, and once a text for a whole number.
    """
    if annotation in (int, float):
        return {int: int | str, float: int | float}[annotation]
    if get_origin(annotation) in (list, dict):
        return get_origin(annotation)[tuple(map(_as_passed, get_args(annotation)))]
    return annotation


if __name__ == "__main__":
    serve_here(build_server())
