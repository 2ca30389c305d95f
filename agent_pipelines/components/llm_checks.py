"""What a batch shows of its model server: checks against targets, and numbers.

Belongs here: how the server's own counters read in the UI. Does not belong here: the counters
(`agents/served.py`) or the targets (`agents/targets.py`).
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from agent_pipelines.agents.served import Served
from agent_pipelines.agents.targets import Targets


def specs(asset: dg.AssetKey) -> Iterator[dg.AssetCheckSpec]:
    """The checks of an agent that has targets."""
    for name, description in (
        ("ttft", "95% of the requests had their first token soon enough"),
        ("stream_speed", "once it had its first token, a request got enough of them per second"),
        ("queue", "few requests waited for the model server at any moment"),
    ):
        yield dg.AssetCheckSpec(name, asset=asset, description=description)


def results(
    served: Served | None, targets: Targets, gpus: int | None
) -> Iterator[dg.AssetCheckResult]:
    """What they come to, by what the server says of itself: of all that it did meanwhile."""
    target = targets.on(gpus)
    p95 = served.counters.ttft.quantile(0.95) if served else None
    speed = served.stream_tokens_per_second if served else None
    waiting = served.most_waiting if served else None
    yield _result(
        "ttft",
        p95,
        passed=p95 is not None and p95 < target.ttft_p95_seconds,
        said=f"p95 {p95:.2f} s, target < {target.ttft_p95_seconds:g} s" if p95 is not None else "",
    )
    yield _result(
        "stream_speed",
        speed,
        passed=speed is not None and speed > target.stream_tokens_per_second,
        said=f"{speed:.1f} tokens/s, target > {target.stream_tokens_per_second:g}" if speed else "",
    )
    yield _result(
        "queue",
        waiting,
        passed=waiting is not None and waiting < target.waiting,
        said=f"at most {waiting} waited, target < {target.waiting}",
    )


def metadata(
    served: Served | None,
    targets: Targets | None,
    gpus: int | None,
    *,
    seconds: float,
    answers: int,
) -> dict[str, Any]:
    """Numbers that plot from batch to batch; those that the server told.

    Args:
        seconds: that the batch took, in all its runs.
        answers: that it gave in them.
    """
    found: dict[str, Any] = {}
    if targets:
        found["targets"] = targets.profile_on(gpus)
    if gpus:
        found["gpus"] = gpus
        if answers:
            found["gpu_seconds_per_answer"] = round(seconds * gpus / answers, 3)
    if served is None:
        return found
    counters = served.counters
    told = {
        "ttft_p50": counters.ttft.quantile(0.5),
        "ttft_p95": counters.ttft.quantile(0.95),
        "stream_tokens_per_second": served.stream_tokens_per_second,
        "server_tokens_per_second": served.tokens_per_second,
        "prefix_hit_rate": served.prefix_hit_rate,
    }
    found |= {name: round(value, 3) for name, value in told.items() if value is not None}
    found |= {"most_waiting": served.most_waiting, "preemptions": int(counters.preemptions)}
    return found


def _result(name: str, value: float | None, *, passed: bool, said: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        # A target, not a truth: a slow server is no reason to distrust the answers.
        severity=dg.AssetCheckSeverity.WARN,
        description=said
        if value is not None
        else "cannot tell: the model server does not say; where it never will, set `targets: null`",
        metadata={"observed": value} if value is not None else {},
    )
