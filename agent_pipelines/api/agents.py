"""An agent as the API serves it: what it is, its tools, and whether it may work now.

Belongs here: what lasts from one task to the next. Does not belong here: the agent's definition
(`agents/spec.py`) or one task (`conversations.py`).
"""

import asyncio
import hashlib
import json
import time

from agent_pipelines.agents.model import Model
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tools import Toolbox, ToolTransportError
from agent_pipelines.api.policy import IndexPolicy
from agent_pipelines.api.tools import Sessions

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
        self.work = _digest(spec, model.name)
        """A digest of all that decides its answers."""
        self._sessions = sessions
        self._servers = spec.tool_servers if spec.tools else ()
        self._toolbox: Toolbox | None = None
        self._listed = 0.0
        self._listing = asyncio.Lock()

    async def toolbox(self) -> Toolbox:
        """Its tools; while their server does not answer, those that it had.

        Raises:
            UserError: the agent's tools do not fit its tool servers.
            ToolTransportError: a tool server does not answer, and never did.
        """
        async with self._listing:
            if self._toolbox is None or time.monotonic() - self._listed > _LISTED_FOR:
                self._listed = time.monotonic()
                try:
                    self._toolbox = await Toolbox.open(
                        self.spec, await self._sessions.of(self._servers)
                    )
                except ToolTransportError:
                    if self._toolbox is None:
                        raise
            return self._toolbox


def _digest(spec: AgentSpec, model: str) -> str:
    decides = json.dumps([spec.deciding, model], sort_keys=True)
    return hashlib.sha256(decides.encode()).hexdigest()[:24]
