"""How a batch reads in the UI: its checks, numbers that plot, and a sample of its answers.

Belongs here: the targets of the checks, and metadata. Does not belong here: running the batch
(`agent_run.py`), or what is shown of its tool calls and its model server (`tool_checks.py`,
`llm_checks.py`).
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import dagster as dg
from sqlalchemy import Engine

from agent_pipelines.agents.targets import COMPLETION, Targets
from agent_pipelines.agents.tasks import Task
from agent_pipelines.components import agent_trace, llm_checks, tool_checks
from agent_pipelines.components.agent_run import Ended

if TYPE_CHECKING:
    from agent_pipelines.agents.answer import Answer
    from agent_pipelines.agents.batch import BatchReport

#: Answers shown as a sample in the UI.
_SAMPLE = 5


def specs(
    asset: dg.AssetKey,
    *,
    tools: bool,
    target_p95_seconds: float | None,
    targets: Targets | None,
) -> Iterator[dg.AssetCheckSpec]:
    """The checks of an agent's answers."""
    yield dg.AssetCheckSpec(
        "completion",
        asset=asset,
        description=f"every task has an answer, {COMPLETION:.0%} of them outcome ok",
    )
    yield dg.AssetCheckSpec(
        "citations_retrieved",
        asset=asset,
        description="every cited chunk was retrieved in that conversation",
    )
    if target_p95_seconds is not None:
        yield dg.AssetCheckSpec(
            "latency",
            asset=asset,
            description=f"95% of the tasks take at most {target_p95_seconds:g} s",
        )
    if tools:
        yield from tool_checks.specs(asset)
    if targets is not None:
        yield from llm_checks.specs(asset)


def results(
    ended: Ended, *, tools: bool, target_p95_seconds: float | None, targets: Targets | None
) -> Iterator[dg.AssetCheckResult]:
    """What they come to."""
    report = ended.report
    ok, answered = report.outcomes.get("ok", 0), sum(report.outcomes.values())
    # What waits is not wrong yet, unless the answers that are to come cannot put it right.
    possible = ok + report.tasks - answered >= COMPLETION * report.tasks
    waits = report.ending.kind == "waiting" and possible
    yield dg.AssetCheckResult(
        check_name="completion",
        passed=answered == report.tasks and ok >= COMPLETION * report.tasks,
        severity=dg.AssetCheckSeverity.WARN if waits else dg.AssetCheckSeverity.ERROR,
        description=f"{ok} of {report.tasks} ok, {answered} answered{_why_not_all(report)}",
        metadata={"ok": ok, "answered": answered, "tasks": report.tasks},
    )
    yield dg.AssetCheckResult(
        check_name="citations_retrieved",
        passed=report.citations_not_retrieved == 0,
        description=f"{report.citations - report.citations_not_retrieved} of "
        f"{report.citations} citations were retrieved",
        metadata={"citations": report.citations},
    )
    if target_p95_seconds is not None:
        yield dg.AssetCheckResult(
            check_name="latency",
            passed=report.latency_p95 <= target_p95_seconds,
            # A target, not a truth: a slow machine is no reason to distrust the answers.
            severity=dg.AssetCheckSeverity.WARN,
            description=f"p95 {report.latency_p95:.1f} s, target {target_p95_seconds:g} s",
            metadata={"p95": report.latency_p95},
        )
    if tools:
        yield from tool_checks.results(ended.tally)
    if targets is not None:
        yield from llm_checks.results(ended.served, targets, ended.gpus)


def _why_not_all(report: "BatchReport") -> str:
    """What a person does about the rest, or does not have to."""
    ending = report.ending
    if ending.kind == "budget":
        return (
            f"; the batch's budget is used up: {ending.reason}. Raise `batch_limits` in the "
            "agent's YAML and start it again: it goes on where it was"
        )
    if ending.kind == "waiting" and report.resume_at is not None:
        return (
            f"; the rest waits for {ending.what}: {ending.reason}. The agent's sensor starts it "
            f"again, by {report.resume_at:%Y-%m-%d %H:%M} UTC"
        )
    return ""


def metadata(ended: Ended, engine: Engine, targets: Targets | None) -> dict[str, Any]:
    """Numbers that plot from batch to batch, and a sample of the answers."""
    from agent_pipelines.agents import answers

    report, admitted = ended.report, ended.admitted
    return {
        "batch": report.batch_id,
        "ending": f"{report.ending.kind}{_why_not_all(report)}",
        "tasks": report.tasks,
        "resumed": report.resumed,
        **{f"outcome_{name}": count for name, count in report.outcomes.items()},
        "prompt_tokens": report.prompt_tokens,
        "completion_tokens": report.completion_tokens,
        "tokens_per_second": round(report.tokens_per_second, 1),
        "seconds": round(report.seconds, 1),
        "latency_p50": round(report.latency_p50, 2),
        "latency_p95": round(report.latency_p95, 2),
        "model": ended.model,
        **llm_checks.metadata(
            ended.served,
            targets,
            ended.gpus,
            seconds=report.seconds,
            answers=report.answered,
        ),
        **(tool_checks.metadata(ended.tally, ended.breakers) if ended.breakers else {}),
        **(
            {
                "index": admitted.snapshot.index,
                "snapshot": admitted.snapshot.sequence,
                "false_signals": ", ".join(report.labels) or "none",
                **{f"label_{name}": count for name, count in report.labels.items()},
            }
            if admitted
            else {}
        ),
        "sample": dg.MarkdownMetadataValue(
            _sample(list(islice(answers.rows(engine, report.batch_id), _SAMPLE)))
        ),
        "trace": agent_trace.keep(engine, report.batch_id),
    }


def _sample(rows: Sequence[tuple[Task, "Answer", datetime]]) -> str:
    blocks = []
    for task, answer, _ in rows:
        output = answer.output or {}
        text = output.get("answer", output) if answer.outcome == "ok" else answer.error
        cited = "\n".join(f"- [{c.title or c.document_id}]({c.uri})" for c in answer.citations)
        blocks.append(
            f"**{task.inputs.get('question', task.inputs)}**\n\n"
            + (
                f"not true then: {', '.join(answer.false_signals)}\n\n"
                if answer.false_signals
                else ""
            )
            + (
                f"outcome unknown: {', '.join(c['tool'] for c in answer.outcome_unknown)}\n\n"
                if answer.outcome_unknown
                else ""
            )
            + (
                f"done: {', '.join(c['tool'] for c in answer.calls_done)}\n\n"
                if answer.calls_done
                else ""
            )
            + f"{answer.outcome}: {text}\n\n{cited}"
        )
    return "\n\n---\n\n".join(blocks)
