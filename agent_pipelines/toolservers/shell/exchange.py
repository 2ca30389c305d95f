"""One HTTP exchange, as its two ends fill it in: the gate around it and the call within.

Belongs here: what is known of it, and the line that is logged. Does not belong here: arguments and
results, which no log sees.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from starlette.types import Receive

from agent_pipelines.toolservers.shell.metrics import Metrics

_log = logging.getLogger(__name__)

#: Of an ASGI scope, where the call finds its exchange.
KEY = "agent_pipelines.exchange"

Outcome = Literal["ok", "error", "outage", "timeout", "cancelled"]


@dataclass
class Exchange:
    """What is known of one request; ``tool`` is None while it is no tool call."""

    caller: str | None
    request_bytes: int
    response_bytes: int = 0
    tool: str | None = None
    outcome: Outcome = "cancelled"
    trace_id: str | None = None
    started: float = field(default_factory=time.perf_counter)
    receive: Receive | None = None
    """Tells when the caller has hung up; None where it may come back for the answer."""

    hung_up: bool = False

    @asynccontextmanager
    async def wanted(self, limit: asyncio.Timeout) -> AsyncIterator[None]:
        """Lets the time be up when the caller hangs up: so HTTP says that no answer is wanted.

        The SDK notices that by itself only where it streams.
        """
        if self.receive is None:
            yield
            return
        watcher = asyncio.create_task(self._watch(self.receive, limit))
        try:
            yield
        finally:
            watcher.cancel()

    async def _watch(self, receive: Receive, limit: asyncio.Timeout) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.hung_up = True
        limit.reschedule(asyncio.get_running_loop().time())

    def close(self, metrics: Metrics) -> None:
        """It is answered, or never will be."""
        if self.tool is None:
            return
        series = metrics.of(self.tool)
        series.request_bytes.observe(self.request_bytes)
        series.response_bytes.observe(self.response_bytes)
        _log.info(
            "tool call",
            extra={
                "tool": self.tool,
                "outcome": self.outcome,
                "duration_ms": round(1000 * (time.perf_counter() - self.started), 2),
                "caller": self.caller,
                "trace_id": self.trace_id,
                "request_bytes": self.request_bytes,
                "response_bytes": self.response_bytes,
            },
        )
