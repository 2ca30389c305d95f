"""A tool server as a Dagster resource, which agents share.

Belongs here: its name, and YAML → resource. Does not belong here: the YAML's fields
(`tool_server_config.py`) or talking to it (`resources/tools.py`).
"""

import asyncio
from pathlib import Path

import dagster as dg
from pydantic import BaseModel

from agent_pipelines.agents.spec import SEARCH_SERVER
from agent_pipelines.agents.tools import ToolTransportError
from agent_pipelines.components.tool_server_config import ToolServerConfig
from agent_pipelines.errors import UnavailableError, UserError
from resources.tools import ToolServerResource


def resource_key(name: str) -> str:
    """The key that a tool server has among Dagster's resources."""
    return "tools" if name == SEARCH_SERVER else f"tools_{name}"


class ToolServerComponent(dg.Component):
    """A tool server: any MCP server over streamable HTTP, for agents to use."""

    def __init__(self, name: str, config: ToolServerConfig, folder: Path) -> None:
        self.name = name
        self.config = config
        self._folder = folder
        if not resource_key(name).isidentifier():
            raise UserError(
                f"a tool server cannot be called {name!r}: Dagster's resources cannot",
                remedy="rename its folder to letters, digits and _",
            )
        if config.url is None and name != SEARCH_SERVER:
            raise UserError(
                f"tool server {name}: `url` is missing",
                remedy="set it to its MCP endpoint, such as https://orders.example/mcp; only "
                f"`{SEARCH_SERVER}` has a server of its own here",
            )

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return ToolServerConfig

    @classmethod
    def load(
        cls, attributes: BaseModel | None, context: dg.ComponentLoadContext
    ) -> "ToolServerComponent":
        # None: a folder called `search` has nothing to say where all is as it is by default.
        config = attributes or ToolServerConfig()
        assert isinstance(config, ToolServerConfig)
        return cls(context.path.name, config, context.path)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """None: its resource is bound with all the others, in `definitions.py`."""
        del context
        return dg.Definitions()

    @property
    def resource(self) -> ToolServerResource:
        config = self.config
        return ToolServerResource(
            name=self.name,
            url=config.url,
            ca=self._path(config.ca),
            cert=self._path(config.cert),
            key=self._path(config.key),
            token_variable=config.token_variable,
            token_file=self._path(config.token_file),
            tools=list(config.tools) if config.tools is not None else None,
            connect_timeout_seconds=config.connect_timeout_seconds,
            call_timeout_seconds=config.call_timeout_seconds,
            concurrency=config.concurrency,
            breaker_failures=config.breaker.failures,
            breaker_open_seconds=config.breaker.open_seconds,
        )

    def check(self) -> str:
        """Ask it for its tools; what it is, in words for a person.

        Raises:
            UserError: its files, its token or its allowlist cannot be used.
            UnavailableError: it does not answer, or refuses us.
        """

        async def ask() -> str:
            async with self.resource.session() as session:
                tools = await session.list_tools()
            return f"{self.resource.endpoint()}, {len(tools)} tools"

        try:
            return asyncio.run(ask())
        except ToolTransportError as error:
            raise UnavailableError(
                str(error), remedy=f"check that it runs, and {self._folder / 'defs.yaml'}"
            ) from error

    def _path(self, path: str | None) -> str | None:
        """From the YAML's folder, unless it is absolute."""
        return None if path is None else str((self._folder / path).absolute())
