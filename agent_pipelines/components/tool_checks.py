"""What a batch shows of its tool calls: checks against targets, numbers and a table.

Belongs here: the targets, and how counts read in the UI. Does not belong here: counting
(`agents/tally.py`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from agent_pipelines.agents.breaker import Breaker
from agent_pipelines.agents.tally import Tally
from agent_pipelines.agents.targets import TOOL_P99_SECONDS, TOOL_SUCCESS


def specs(asset: dg.AssetKey) -> Iterator[dg.AssetCheckSpec]:
    """The checks of an agent that has tools."""
    yield dg.AssetCheckSpec(
        "tool_success",
        asset=asset,
        description=f"at least {TOOL_SUCCESS:.1%} of the tool calls brought a result",
    )
    yield dg.AssetCheckSpec(
        "tool_latency",
        asset=asset,
        description=f"99% of the tool calls took less than {TOOL_P99_SECONDS * 1000:.0f} ms",
    )


def results(tally: Tally) -> Iterator[dg.AssetCheckResult]:
    """What they come to. They warn: what becomes of the rows is what `completion` says."""
    p50, p99 = tally.seconds(0.5), tally.seconds(0.99)
    yield dg.AssetCheckResult(
        check_name="tool_success",
        passed=tally.success_rate >= TOOL_SUCCESS,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{tally.calls - tally.errors} of {tally.calls} calls brought a result",
        metadata={
            "calls": tally.calls,
            "errors": tally.errors,
            "success_rate": tally.success_rate,
            **_outcomes(tally),
        },
    )
    yield dg.AssetCheckResult(
        check_name="tool_latency",
        passed=p99 < TOOL_P99_SECONDS,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"p99 {p99 * 1000:.0f} ms, target {TOOL_P99_SECONDS * 1000:.0f} ms",
        metadata={"p50_ms": p50 * 1000, "p99_ms": p99 * 1000},
    )


def metadata(tally: Tally, breakers: Mapping[str, Breaker]) -> dict[str, Any]:
    """Numbers that plot from batch to batch, and a table of all tools."""
    rows = [
        f"| {server} | {tool} | {', '.join(f'{n} {outcome}' for outcome, n in found.items())} "
        f"| {p50 * 1000:.1f} | {p99 * 1000:.1f} |"
        for server, tool, found, p50, p99 in tally.tools()
    ]
    head = "| server | tool | calls | p50 ms | p99 ms |\n| --- | --- | --- | --- | --- |\n"
    return {
        "tool_calls_sent": tally.calls - _outcomes(tally).get("unavailable", 0),
        "tool_success_rate": tally.success_rate,
        "tool_p50_ms": round(tally.seconds(0.5) * 1000, 2),
        "tool_p99_ms": round(tally.seconds(0.99) * 1000, 2),
        "tool_calls": dg.MarkdownMetadataValue(head + "\n".join(rows)),
        **{error_share_of(server): round(tally.error_share(server), 4) for server in breakers},
        **{
            f"breaker_{server}": f"{breaker.state}, opened {breaker.openings} times"
            for server, breaker in breakers.items()
        },
    }


def error_share_of(server: str) -> str:
    """The metadata entry with the share of a batch's calls to a server that brought no result."""
    return f"tool_error_share_{server}"


def _outcomes(tally: Tally) -> dict[str, int]:
    counts: dict[str, int] = {}
    for (_, _, outcome), number in tally.outcomes.items():
        counts[outcome] = counts.get(outcome, 0) + number
    return counts
