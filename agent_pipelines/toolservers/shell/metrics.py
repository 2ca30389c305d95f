"""What a tool server counts, for Prometheus.

Belongs here: the names, labels and buckets. Does not belong here: when something is counted.
"""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: A model's arguments to the largest result that anybody would put into a context.
_BYTES = tuple(4.0**exponent for exponent in range(3, 13))


@dataclass(frozen=True)
class OfTool:
    """One tool's series."""

    calls: Counter
    errors: Counter
    cancelled: Counter
    seconds: Histogram
    in_flight: Gauge
    request_bytes: Histogram
    response_bytes: Histogram


class Metrics:
    """A registry of its own: one process may serve several."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        label = ("tool_name",)
        self._calls = Counter(
            "mcp_tool_call", "Tool calls that were answered.", label, registry=registry
        )
        self._errors = Counter(
            "mcp_tool_call_errors", "Tool calls that failed.", label, registry=registry
        )
        self._cancelled = Counter(
            "mcp_tool_call_cancelled",
            "Tool calls that nobody waited for any more; no calls nor errors otherwise.",
            label,
            registry=registry,
        )
        self._seconds = Histogram(
            "mcp_tool_call_duration_seconds",
            "Time from receiving a tool call to its result.",
            label,
            registry=registry,
        )
        self._in_flight = Gauge(
            "mcp_tool_calls_in_flight", "Tool calls that are running.", label, registry=registry
        )
        self._request_bytes = Histogram(
            "mcp_tool_call_request_bytes",
            "Size of the HTTP body that carried a tool call.",
            label,
            buckets=_BYTES,
            registry=registry,
        )
        self._response_bytes = Histogram(
            "mcp_tool_call_response_bytes",
            "Size of the HTTP body that answered a tool call.",
            label,
            buckets=_BYTES,
            registry=registry,
        )
        self.refused = Counter(
            "mcp_requests_refused",
            "Requests that reached no tool: host, origin, token, size, slow or busy.",
            ("reason",),
            registry=registry,
        )
        for reason in ("host", "origin", "token", "size", "slow", "busy"):
            # At zero from the start: an increase can be seen.
            self.refused.labels(reason)
        self._of: dict[str, OfTool] = {}

    def of(self, tool: str) -> OfTool:
        """Its series; looked up once, which takes longer than counting."""
        found = self._of.get(tool)
        if found is None:
            found = self._of[tool] = OfTool(
                self._calls.labels(tool),
                self._errors.labels(tool),
                self._cancelled.labels(tool),
                self._seconds.labels(tool),
                self._in_flight.labels(tool),
                self._request_bytes.labels(tool),
                self._response_bytes.labels(tool),
            )
        return found
