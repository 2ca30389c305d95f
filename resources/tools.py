"""A tool server: any MCP server over streamable HTTP, the embedded search server by default.

Belongs here: what a person configures, and finding the server. Does not belong here: the session
itself (`tool_session.py`), or which tools an agent may call (`agents/tools.py`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.settings import Settings

if TYPE_CHECKING:
    from agent_pipelines.agents.tools import ToolSession
    from resources.tool_path import ToolPath


class ToolServerResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """An MCP server. Without ``url``: SEARCH_TOOL_URL, then the embedded search server."""

    url: str | None = Field(default=None, description="Its MCP endpoint, such as https://…/mcp.")
    connect_timeout_seconds: float = 5.0
    call_timeout_seconds: float = 30.0

    def endpoint(self) -> str:
        """The URL of its MCP endpoint.

        Raises:
            UserError: none is configured and none runs here.
        """
        settings = Settings()
        configured = self.url or settings.search_tool_url
        if configured:
            return configured
        from agent_pipelines.local.parts import addresses

        embedded = addresses(settings.state_dir, "search")
        if embedded is None:
            raise UserError(
                "no search tool server: SEARCH_TOOL_URL is not set and no embedded one runs in "
                f"{settings.state_dir}",
                remedy="start `agent-pipelines dev`, or set SEARCH_TOOL_URL to one that runs",
            )
        return f"{embedded['url']}/mcp"

    def serving_path(self) -> "ToolPath | None":
        """The way to the readers, for probes; None where no search tool server is to be expected.

        Raises:
            UnavailableError: `dev` runs here, and its search tool server does not.
        """
        from agent_pipelines.local.parts import find
        from resources.tool_path import ToolPath

        settings = Settings()
        if configured := self.url or settings.search_tool_url:
            return ToolPath(configured)
        # Not whether it answers: one that hangs must be seen to hang.
        if embedded := find(settings.state_dir, "search"):
            return ToolPath(f"{embedded.addresses['url']}/mcp")
        if find(settings.state_dir, "dagster"):
            raise UnavailableError(
                f"the search tool server of {settings.state_dir} is not running",
                remedy="see its log in the state directory; `agent-pipelines dev` restarts it",
            )
        return None

    @asynccontextmanager
    async def session(self) -> "AsyncIterator[ToolSession]":
        """One HTTP client and one MCP session, to be shared by all tasks of this worker.

        Raises:
            ToolTransportError: the server does not answer.
        """
        # Imported here: definitions load without an MCP client.
        from resources.tool_session import open_session

        async with open_session(
            self.endpoint(),
            connect_timeout=self.connect_timeout_seconds,
            call_timeout=self.call_timeout_seconds,
        ) as session:
            yield session
