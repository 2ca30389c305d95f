"""One HTTP exchange, as its two ends fill it in: the gate around it and the call within.

Belongs here: what is known of it, and the line that is logged. Does not belong here: arguments and
results, which no log sees.
"""

import logging
import time
from dataclasses import dataclass, field
from typing import Literal

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
