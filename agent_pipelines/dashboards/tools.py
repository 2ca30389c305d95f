"""*Tools*: calls, errors, latency and breakers, as agents and as servers count them.

Belongs here: what is seen from both ends of a tool call.
"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from agent_pipelines.agents.targets import TOOL_P99_SECONDS, TOOL_SUCCESS
from agent_pipelines.dashboards.panels import NONE, Target, board, choice, number, series, states

_AGENTS = '{server=~"$server"}'
_CALLS = f"agent_pipelines_tool_call_total{_AGENTS}"
_ERRORS = f"agent_pipelines_tool_call_errors_total{_AGENTS}"
_PER_TOOL = f"sum by (server, tool_name) (rate({_CALLS}[5m]))"
_SECONDS = f"agent_pipelines_tool_call_duration_seconds_bucket{_AGENTS}"
_BREAKER = 'agent_pipelines_tool_breaker{server=~"$server"'

_SUCCESS = f"1 - sum(increase({_ERRORS}[$__range])) / (sum(increase({_CALLS}[$__range])) > 0)"


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "tools",
        "Tools",
        "Tool calls from both ends: what agents saw, and what each server says it answered.",
        {
            "Now": [
                number(
                    "Calls succeeded",
                    "Share of the calls in the shown time that brought agents a result.",
                    _SUCCESS,
                    unit="percentunit",
                    target=Target(TOOL_SUCCESS, "above"),
                    span=6,
                ),
                number(
                    "p99",
                    "99% of the calls in the shown time took agents less than this.",
                    f"histogram_quantile(0.99, sum by (le) (increase({_SECONDS}[$__range])))",
                    unit="s",
                    target=Target(TOOL_P99_SECONDS, "below"),
                    span=6,
                ),
                number(
                    "Open breakers",
                    "Tool servers that some worker does not call now.",
                    f'sum({_BREAKER},state="open"}}) or vector(0)',
                    unit="short",
                    target=NONE,
                    span=6,
                ),
                number(
                    "Certificates run out in",
                    "The first of the servers' certificates to expire.",
                    "min(mcp_tls_certificate_expiry_timestamp_seconds) - time()",
                    unit="s",
                    target=Target(3600, "above"),
                    span=6,
                ),
            ],
            "As agents see them": [
                series(
                    "Calls",
                    "Tool calls of agents per second, those not sent included.",
                    {"{{server}} {{tool_name}}": _PER_TOOL},
                    unit="reqps",
                ),
                series(
                    "Share of errors",
                    "Calls that brought no result: the tool's own word, outages, transport, not "
                    "sent.",
                    {
                        "{{server}}": (
                            f"sum by (server) (rate({_ERRORS}[5m]))"
                            f" / (sum by (server) (rate({_CALLS}[5m])) > 0)"
                        )
                    },
                    unit="percentunit",
                    target=Target(1 - TOOL_SUCCESS, "below"),
                ),
                series(
                    "p50 and p99",
                    "From sending a call to its result or its failure.",
                    {
                        f"{{{{server}}}} p{quantile}": (
                            f"histogram_quantile(0.{quantile}, "
                            f"sum by (server, le) (rate({_SECONDS}[5m])))"
                        )
                        for quantile in (50, 99)
                    },
                    unit="s",
                    target=Target(TOOL_P99_SECONDS, "below"),
                ),
                series(
                    "Outcomes",
                    "What calls came to: ok, error (the tool's own word), outage (what it depends "
                    "on is down), transport (no answer), unavailable (not sent), cancelled.",
                    {
                        "{{outcome}}": (
                            "sum by (outcome) "
                            f"(rate(agent_pipelines_tool_call_outcomes_total{_AGENTS}[5m]))"
                        )
                    },
                    unit="reqps",
                ),
                states(
                    "Breakers",
                    "The state of each server's breaker in the worker that sees it worst.",
                    {
                        "{{agent}} → {{server}}": (
                            "max by (agent, server) ("
                            f'{_BREAKER},state="open"}} * 2 or '
                            f'{_BREAKER},state="half_open"}} * 1)'
                        )
                    },
                    named=[(0, "closed", "good"), (1, "half open", "unknown"), (2, "open", "bad")],
                    height=8,
                ),
            ],
            "As servers see them": [
                series(
                    "In flight",
                    "Calls that are running, by server: what replicas are added for.",
                    {"{{job}} {{tool_name}}": "sum by (job, tool_name) (mcp_tool_calls_in_flight)"},
                    unit="short",
                ),
                series(
                    "p99 inside the server",
                    "From receiving a call to its result; the rest is the way.",
                    {
                        "{{job}} {{tool_name}}": (
                            "histogram_quantile(0.99, sum by (job, tool_name, le) "
                            "(rate(mcp_tool_call_duration_seconds_bucket[5m])))"
                        )
                    },
                    unit="s",
                    target=Target(TOOL_P99_SECONDS, "below"),
                ),
                series(
                    "Errors",
                    "Calls that the server itself says failed.",
                    {
                        "{{job}} {{tool_name}}": (
                            "sum by (job, tool_name) (rate(mcp_tool_call_errors_total[5m]))"
                        )
                    },
                    unit="reqps",
                ),
                series(
                    "Refused requests",
                    "Requests that reached no tool, by reason.",
                    {"{{reason}}": "sum by (reason) (rate(mcp_requests_refused_total[5m]))"},
                    unit="reqps",
                ),
                series(
                    "Answers' size, p99",
                    "Bytes of the HTTP body that answered a call.",
                    {
                        "{{job}} {{tool_name}}": (
                            "histogram_quantile(0.99, sum by (job, tool_name, le) "
                            "(rate(mcp_tool_call_response_bytes_bucket[5m])))"
                        )
                    },
                    unit="bytes",
                ),
                series(
                    "Handshakes refused",
                    "TLS handshakes that either side refused: a certificate is missing or old.",
                    {"{{job}}": "sum by (job) (rate(mcp_tls_handshake_failures_total[5m]))"},
                    unit="reqps",
                ),
            ],
        },
        choices=[choice("server", "agent_pipelines_tool_call_total")],
    )
