"""`tools`: serving a tool server by its name, or a stdio server by its command.

Belongs here: handing each server its connections. Does not belong here: how they are served
(`toolservers/shell`), or how the command line is read (`tool_arguments.py`).
"""

import asyncio
import os
import shlex
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from agent_pipelines.errors import UserError
from agent_pipelines.toolservers import catalogue
from agent_pipelines.toolservers.shell import Options, serve

if TYPE_CHECKING:
    from agent_pipelines.session import Session

#: Of the time that the shell gives a call: a child that does not answer is told of before it is up.
_SHARE_OF_A_CALL = 0.9


def serve_named(name: str, options: Options) -> None:
    """Serve a shipped server, or one of the user's own, until SIGTERM or Ctrl-C.

    Raises:
        UserError: there is none of this name, or its settings are not right.
    """
    server = catalogue.find(name)
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(server.open())
        except ModuleNotFoundError as error:
            raise catalogue.not_installed(name, error) from error
        asyncio.run(serve(opened.server, ready=opened.ready, options=options))


def serve_stdio(argv: Sequence[str], env: Sequence[str], options: Options) -> None:
    """Serve any stdio MCP server until SIGTERM or Ctrl-C, and end it and what it started.

    ``env`` names variables of ours that it gets too, or gives them, as in NAME=VALUE.

    Raises:
        UserError: it cannot be started, or a variable is not set.
    """
    from agent_pipelines.toolservers import stdio
    from agent_pipelines.toolservers.shell import logs
    from agent_pipelines.toolservers.stdio_child import Command, running

    command = Command(split(argv), dict(_variable(given) for given in env))

    async def run() -> None:
        seconds = _SHARE_OF_A_CALL * options.call_timeout_seconds
        async with running(command, call_seconds=seconds) as child:
            await serve(stdio.build_server(child), ready=child.ready, options=options)

    # Already now: it may have a lot to say while it starts.
    logs.to_stderr()
    asyncio.run(run())


def serve_search(session: "Session", options: Options) -> None:
    """Serve the search over every index of the assets folder, until SIGTERM or Ctrl-C."""
    # The stores and the embedder: slow to import, and no other server's business.
    from agent_pipelines.health.readers import CheckedSearcher
    from agent_pipelines.toolservers import search
    from resources.embedder import EmbedderResource
    from resources.state import StateResource
    from resources.weaviate import WeaviateResource

    with ExitStack() as stack:
        indexes = {
            name: stack.enter_context(
                component.open(WeaviateResource(), EmbedderResource(), StateResource())
            )
            for name, component in session.loaded.indexes.items()
        }
        for index in indexes.values():
            # Loads the model now: whoever calls first would wait for it beyond their patience.
            index.embedder.embed([index.name])
        searcher = CheckedSearcher(indexes)
        server = search.build_server(searcher)
        asyncio.run(serve(server, ready=search.readiness(searcher), options=options))


def split(argv: Sequence[str]) -> tuple[str, ...]:
    """The command and its arguments, also where all of it came as one quoted string."""
    if len(argv) == 1 and shutil.which(argv[0]) is None:
        argv = shlex.split(argv[0])
    command = argv[0] if argv else ""
    if shutil.which(command) is None:
        raise UserError(
            f"there is no command {command!r}",
            remedy="name a program on the PATH or by its path, as in "
            "`agent-pipelines tools --stdio --port 8000 -- npx -y some-mcp-server`",
        )
    return tuple(argv)


def _variable(given: str) -> tuple[str, str]:
    name, says, value = given.partition("=")
    if not says:
        if name not in os.environ:
            raise UserError(
                f"--env {name}: this variable is not set",
                remedy=f"set it, or give its value as in --env {name}=VALUE",
            )
        value = os.environ[name]
    return name, value
