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
        command.help = _about(cmd_name)
        command.params = [param for param in command.params if param.name != "name"]
        assert command.callback is not None
        command.callback = partial(command.callback, name=cmd_name)
        return command


def _about(name: str) -> str:
    from agent_pipelines.toolservers import catalogue

    # The shipped ones first: one whose package is missing must not keep the others from being told.
    told = [catalogue.shipped().get(name) or catalogue.find(name).summary]
    for variable in catalogue.variables(name):
        needed = " (needed)" if variable.required else ""
        told.append(f"* `{variable.name}`{needed}: {variable.description}")
    return "\n\n".join(told)
