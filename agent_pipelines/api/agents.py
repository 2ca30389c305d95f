"""An agent as the API serves it: what it is, its tools, and whether it may work now.

Belongs here: what lasts from one task to the next. Does not belong here: the agent's definition
(`agents/spec.py`) or one task (`conversations.py`).
"""

import asyncio
import logging
import time

from agent_pipelines.agents.lifecycle import work_of
from agent_pipelines.agents.model import Model
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tools import Toolbox, ToolTransportError
from agent_pipelines.api.policy import IndexPolicy
from agent_pipelines.api.tools import Sessions

_log = logging.getLogger(__name__)

#: Seconds after which tools are listed anew: their server may be another version by now.
_LISTED_FOR = 60.0


class ServedAgent:
    """One agent of the assets folder."""

    def __init__(
        self,
        spec: AgentSpec,
        *,
        description: str,
        model: Model,
        policy: IndexPolicy | None,
        sessions: Sessions,
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.description = description
        self.model = model
        self.policy = policy
        self.work = str(work_of(spec, model.name))
        """A digest of all that decides its answers."""
        self._sessions = sessions
        self._servers = spec.tool_servers if spec.tools else ()
        self._toolbox: Toolbox | None = None
        self._listed = 0.0
        self._listing: asyncio.Task[Toolbox] | None = None

    async def toolbox(self) -> Toolbox:
        """Its tools. Listed anew after a while, for which nobody waits; while their server does not
        answer, those that it had.

        Raises:
            UserError: the agent's tools do not fit its tool servers.
            ToolTransportError: a tool server does not answer, and never did.
        """
        old = time.monotonic() - self._listed > _LISTED_FOR
        if self._listing is None and (self._toolbox is None or old):
            self._listed = time.monotonic()
            self._listing = asyncio.create_task(self._list())
            self._listing.add_done_callback(self._keep)
        if self._toolbox is not None:
            return self._toolbox
        assert self._listing is not None
        # One listing for all who wait, whoever of them hangs up.
        return await asyncio.shield(self._listing)

    async def _list(self) -> Toolbox:
        return await Toolbox.open(self.spec, await self._sessions.of(self._servers))

    def _keep(self, listing: asyncio.Task[Toolbox]) -> None:
        self._listing = None
        if listing.cancelled():
            return
        error = listing.exception()
        if error is None:
            self._toolbox = listing.result()
        elif not isinstance(error, ToolTransportError):
            # Its tools are not what they were: the next who asks waits for a listing, and is told.
            self._toolbox = None
            _log.error("the tools of agent %s cannot be listed: %s", self.name, error)
