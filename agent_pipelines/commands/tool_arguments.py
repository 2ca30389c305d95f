"""How `tools` reads its arguments: a server's name, `new`, or `--stdio` and a command.

Belongs here: what makes these three one group of commands, and its help. Does not belong here:
what they do (`tools.py`, `new_tool.py`). Imported with the command line, so nothing heavy here.
"""

import copy
from functools import partial
from typing import Any

from typer.core import TyperGroup

#: The command that stands for every server by its name, and the one that takes another command.
NAME = "NAME"
STDIO = "--stdio"


HELP = """Serve MCP tools over HTTP, to agents and to any MCP client.

Every server has `/mcp`, `/health`, `/ready` and `/metrics`, whether it is shipped (below), your own
(`my_server.py` or `my_package.my_server`) or any stdio server. `tools NAME --help` says which
variables it reads.

With mTLS `/mcp` is for who has a certificate of that CA; the probes are plain HTTP, on port 9090:

    TOOLS_TLS_CERT=tls.crt TOOLS_TLS_KEY=tls.key TOOLS_TLS_CLIENT_CA=ca.crt \\
    TOOLS_ALLOWED_HOSTS=tools.example.com:8443 \\
    agent-pipelines tools search --host 0.0.0.0 --port 8443

Renewed files are taken up while it runs. Further variables that every server reads:
`TOOLS_TOKEN_FILE`, `TOOLS_ALLOWED_ORIGINS`, `TOOLS_MAX_REQUEST_BYTES`, `TOOLS_MAX_CONCURRENT`,
`TOOLS_CALL_TIMEOUT_SECONDS`, `TOOLS_DRAIN_SECONDS`.
"""


class ToolsGroup(TyperGroup):
    """A group in which every name of a tool server is a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Arguments, with `--stdio` as the command that it is wherever it stands among options."""
        before = args[: args.index("--")] if "--" in args else args
        if STDIO in before:
            at = before.index(STDIO)
            args = ["--", STDIO, *args[:at], *args[at + 1 :]]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """The shipped servers, then what else there is."""
        from agent_pipelines.toolservers import catalogue

        written = [name for name in super().list_commands(ctx) if name != NAME]
        return [*(name for name in catalogue.shipped() if name not in written), *written]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name; for a tool server one that serves it.

        Raises:
            UserError: there is no such server.
        """
        if cmd_name != NAME and (written := super().get_command(ctx, cmd_name)) is not None:
            return written
        command = copy.copy(self.commands[NAME])
        command.name, command.hidden = cmd_name, False
        command.help, command.short_help = _about(cmd_name)
        command.params = [param for param in command.params if param.name != "name"]
        assert command.callback is not None
        command.callback = partial(command.callback, name=cmd_name)
        return command


def _about(name: str) -> tuple[str, str]:
    """What there is to say of a server, at length and in a line."""
    from agent_pipelines.errors import UserError
    from agent_pipelines.toolservers import catalogue

    # The shipped ones first: one whose package is missing must not keep the others from being told.
    summary = catalogue.shipped().get(name) or catalogue.sentence(catalogue.find(name).summary)
    try:
        variables = catalogue.variables(name)
    except UserError:
        return summary, summary
    told = [
        f"* `{variable.name}`{' (needed)' if variable.required else ''}: {variable.description}"
        for variable in variables
    ]
    needed = ", ".join(variable.name for variable in variables if variable.required)
    return "\n\n".join([summary, *told]), summary + (f" Needs {needed}." if needed else "")
