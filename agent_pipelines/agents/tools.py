"""What an agent needs of a tool server, and the agent's own view of its tools.

Belongs here: the protocol that `resources/tools.py` implements, the allowlist, bound arguments.
Does not belong here: connections, and what a result means (`citations.py`).
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from agent_pipelines.agents.schemas import Schema, inlined, without
from agent_pipelines.agents.spec import SEARCH_SERVER, AgentSpec, task_field
from agent_pipelines.errors import UserError


class ToolTransportError(Exception):
    """The tool server did not answer; whether the call took effect is not known."""


class ToolNotSentError(ToolTransportError):
    """The call was not sent, so that it may be made later, whatever the tool."""


class ToolUnavailableError(ToolNotSentError):
    """The server did not answer others. ``retry_after`` in seconds."""

    def __init__(self, server: str, retry_after: float, reason: str) -> None:
        wait = math.ceil(retry_after)
        super().__init__(f"{server}: tool unavailable, retry after {wait} s ({reason})")
        self.retry_after = retry_after


@dataclass(frozen=True)
class ToolResult:
    """What a tool answered. ``is_error`` is the tool's own word: the server is well."""

    is_error: bool
    text: str
    structured: Mapping[str, Any] | None = None
    outage: str | None = None
    """What the tool depends on and says to be down; then the server is as good as down."""


@dataclass(frozen=True)
class ToolInfo:
    """A tool as its server describes it. ``repeatable``: calling it twice is calling it once."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    repeatable: bool
    server: str = SEARCH_SERVER


class ToolSession(Protocol):
    """One open session with a tool server, shared by all tasks of a worker.

    Both raise `ToolTransportError` when the server does not answer.
    """

    async def list_tools(self) -> Sequence[ToolInfo]: ...

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult: ...


@dataclass(frozen=True)
class Tool:
    """One allowed tool as the model sees it: without the arguments that the agent binds."""

    name: str
    description: str
    schema: Schema
    bound: Mapping[str, Any]
    repeatable: bool
    server: str
    reads_index: bool
    """Whether its results are passages of the agent's index, which can be cited."""


class Toolbox:
    """The tools an agent may call. Made once per batch; nothing a tool says changes it."""

    def __init__(self, tools: Sequence[Tool], session: ToolSession | None) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._session = session

    @classmethod
    async def open(cls, spec: AgentSpec, session: ToolSession | None) -> Self:
        """The agent's allowlist, looked up on the tool server.

        Raises:
            UserError: a tool on the allowlist does not exist, exists twice, or its schema cannot be
                used.
            ToolTransportError: the tool server does not answer.
        """
        if not spec.tools:
            return cls([], None)
        if session is None:
            raise UserError(
                f"agent {spec.name!r} has tools but no tool server",
                remedy="give it one, or remove `tools` from its YAML",
            )
        tools = await session.list_tools()
        _refuse_clashes(spec, tools)
        offered = {tool.name: tool for tool in tools}
        missing = [name for name in spec.tools if name not in offered]
        if missing:
            raise UserError(
                f"agent {spec.name!r} allows tools its tool server does not have: "
                f"{', '.join(missing)}",
                remedy=f"use some of: {', '.join(sorted(offered)) or 'none'}",
            )
        return cls([_restricted(offered[name], spec) for name in spec.tools], session)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __bool__(self) -> bool:
        return bool(self._tools)

    def get(self, name: str) -> Tool | None:
        """The tool of that name, if this agent may call it."""
        return self._tools.get(name)

    async def call(
        self, name: str, arguments: Mapping[str, Any] | None, inputs: Mapping[str, Any]
    ) -> ToolResult:
        """Call an allowed tool. Any other name, or arguments that are no object, reach nobody.

        ``inputs`` are the task's fields, for bound arguments that stand for one of them.

        Raises:
            ToolTransportError: the tool server does not answer.
        """
        tool = self._tools.get(name)
        if tool is None or self._session is None:
            allowed = ", ".join(self._tools) or "none"
            return ToolResult(True, f"There is no tool {name!r}. Tools you may call: {allowed}.")
        if arguments is None:
            return ToolResult(True, "The arguments were not a JSON object. Call the tool again.")
        bound = {
            key: inputs[field] if (field := task_field(value)) else value
            for key, value in tool.bound.items()
        }
        return await self._session.call(name, {**arguments, **bound})


def _refuse_clashes(spec: AgentSpec, tools: Sequence[ToolInfo]) -> None:
    for name, number in Counter(tool.name for tool in tools).items():
        if number > 1 and name in spec.tools:
            servers = [tool.server for tool in tools if tool.name == name]
            raise UserError(
                f"agent {spec.name!r} allows {name!r}, and its tool servers "
                f"{' and '.join(servers)} each have a tool of that name",
                remedy=f"leave {name} out of `tools` in the defs.yaml of one of them, or leave one "
                "out of the agent's `tool_servers`",
            )


def _restricted(info: ToolInfo, spec: AgentSpec) -> Tool:
    reads_index = spec.reads_index(info.name, info.server)
    if reads_index and spec.index is None:
        raise UserError(
            f"agent {spec.name!r} allows {info.name}, and has no index for it to read",
            remedy="name the index by `index` in the agent's YAML",
        )
    bound = spec.bound(info.name, info.server)
    unknown = set(bound) - set(info.input_schema.get("properties", {}))
    if unknown:
        raise UserError(
            f"agent {spec.name!r} binds arguments that {info.name} does not have: "
            f"{', '.join(sorted(unknown))}",
            remedy=f"it takes: {', '.join(info.input_schema.get('properties', {}))}",
        )
    try:
        schema = without(inlined(info.input_schema), list(bound))
    except ValueError as error:
        raise UserError(
            f"the input schema of tool {info.name} cannot be used: {error}",
            remedy=f"remove {info.name} from the tools of agent {spec.name!r}",
        ) from error
    return Tool(
        info.name, info.description, schema, bound, info.repeatable, info.server, reads_index
    )
