"""A tool server: any MCP server over streamable HTTP, the embedded search server by default.

Belongs here: what a person configures, and finding the server. Does not belong here: the session
itself (`tool_session.py`), or which tools an agent may call (`agents/tools.py`).
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from agent_pipelines.agents.spec import SEARCH_SERVER
from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.settings import Settings
from resources.secret_file import secret_in

if TYPE_CHECKING:
    from agent_pipelines.agents.guard import GuardedSession
    from agent_pipelines.agents.tally import Tally
    from resources.tool_path import ToolPath
    from resources.tool_tls import TlsFiles


class ToolServerResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """An MCP server. Without ``url``: SEARCH_TOOL_URL, then the embedded search server."""

    name: str = Field(default=SEARCH_SERVER, description="What agents call it.")
    url: str | None = Field(default=None, description="Its MCP endpoint, such as https://…/mcp.")
    ca: str | None = Field(
        default=None, description="PEM file: who may sign its certificate. Default: the machine's."
    )
    cert: str | None = Field(default=None, description="PEM file: the certificate we show.")
    key: str | None = Field(default=None, description="PEM file: the key that belongs to it.")
    token_variable: str | None = Field(
        default=None, description="Environment variable that holds the bearer token."
    )
    token_file: str | None = Field(
        default=None, description="File that holds the bearer token; read for every exchange."
    )
    tools: list[str] | None = Field(
        default=None, description="Its tools that may be used. Default: all of them."
    )
    connect_timeout_seconds: float = 5.0
    call_timeout_seconds: float = 30.0
    concurrency: int = Field(default=32, description="Calls at once from one worker.")
    breaker_failures: int = Field(
        default=3, description="Consecutive transport failures after which no call is sent."
    )
    breaker_open_seconds: float = Field(
        default=30.0, description="Until one call is sent again, to see whether it is back."
    )

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
            return ToolPath(configured, files=self._files(), token=self._token())
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
    async def session(self, tally: "Tally | None" = None) -> "AsyncIterator[GuardedSession]":
        """One HTTP client and one MCP session, to be shared by all tasks of this worker.

        Args:
            tally: counts its calls.

        Raises:
            UserError: its files or its token cannot be used.
            ToolTransportError: the server does not answer, or refuses us.
        """
        # Imported here: definitions load without an MCP client.
        from agent_pipelines.agents.breaker import Breaker, BreakerSettings
        from agent_pipelines.agents.guard import GuardedSession
        from agent_pipelines.agents.tally import Tally
        from agent_pipelines.agents.tools import ToolTransportError
        from resources.tool_session import open_session
        from resources.tool_tls import ClientTls

        async with AsyncExitStack() as stack:
            try:
                session = await stack.enter_async_context(
                    open_session(
                        self.endpoint(),
                        connect_timeout=self.connect_timeout_seconds,
                        call_timeout=self.call_timeout_seconds,
                        tls=ClientTls(self._files()),
                        token=self._token(),
                    )
                )
            except ToolTransportError as error:
                raise ToolTransportError(f"tool server {self.name}: {error}") from error
            except UserError as error:
                raise UserError(
                    f"tool server {self.name}: {error.message}", remedy=error.remedy
                ) from error
            yield GuardedSession(
                self.name,
                session,
                breaker=Breaker(BreakerSettings(self.breaker_failures, self.breaker_open_seconds)),
                tally=Tally() if tally is None else tally,
                concurrency=self.concurrency,
                seconds=self.call_timeout_seconds,
                allowed=self.tools,
            )

    def _files(self) -> "TlsFiles":
        from resources.tool_tls import TlsFiles

        if self.url:
            return TlsFiles(*(Path(p) if p else None for p in (self.ca, self.cert, self.key)))
        settings = Settings()
        return TlsFiles(
            settings.search_tool_ca, settings.search_tool_cert, settings.search_tool_key
        )

    def _token(self) -> Callable[[], str] | None:
        """Reads the token anew each time: it may be renewed while a batch runs."""
        if self.token_file:
            token = partial(secret_in, Path(self.token_file), "token_file")
            token()
            return token
        given = None if self.url else Settings().search_tool_token
        if self.token_variable:
            given = os.environ.get(self.token_variable)
            if not given:
                raise UserError(
                    f"`token` stands for the environment variable {self.token_variable}, which is "
                    "not set",
                    remedy=f"set {self.token_variable} to the token of the tool server",
                )
        return partial(str, given) if given else None
