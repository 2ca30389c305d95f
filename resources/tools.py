"""A tool server: any MCP server over streamable HTTP, the embedded search server by default.

Belongs here: what a person configures, and finding the server. Does not belong here: the session
itself (`tool_session.py`), or which tools an agent may call (`agents/tools.py`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from agent_pipelines.errors import UserError
from agent_pipelines.settings import Settings

if TYPE_CHECKING:
    from agent_pipelines.agents.tools import ToolSession


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
