"""How a job ended, as data for programs and as tables for people.

Belongs here: what is shown of a run. Does not belong here: running anything (`jobs.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape

from agent_pipelines.session import JobOutcome
from agent_pipelines.terminal import counts, passed_text, table

#: What a program reads of an index's run.
_SYNC_COUNTS = (
    *("listed", "changed", "deleted", "failed"),
    *("written", "embedded", "reused", "retired", "repaired"),
)


@dataclass(frozen=True)
class Result:
    """How one index's or agent's job ended."""

    kind: str
    name: str
    outcome: JobOutcome | None
    error: str | None

    @property
    def ok(self) -> bool:
        """Whether the job ran to its end and every check passed."""
        went = self.outcome is not None and self.error is None
        return went and not self.failed_checks and not self.unfinished

    @property
    def unfinished(self) -> list[str]:
        """Of a batch that waits for what is down: what for, and what becomes of it."""
        checks = self.outcome.checks if self.outcome else ()
        return [
            check.description
            for check in checks
            if check.name == "completion" and not check.passed and check.warning
        ]

    @property
    def failed_checks(self) -> list[str]:
        checks = self.outcome.checks if self.outcome else ()
        failed = [check for check in checks if not check.passed and not check.warning]
        return [f"{check.asset}: {check.name}" for check in failed]

    def as_json(self) -> dict[str, Any]:
        """The result for programs; see `run --help`."""
        found = self.outcome
        values: dict[str, Any] = {"ok": self.ok, "error": self.error}
        if found is None:
            return values
        values["run_id"] = found.run_id
        values["checks"] = {
            check.name: {
                "passed": check.passed,
                "warning": check.warning,
                "description": check.description,
            }
            for check in found.checks
        }
        if self.kind == "index":
            synced, live = found.metadata.get("index", {}), found.metadata.get("live", {})
            values |= {name: synced.get(name) for name in _SYNC_COUNTS}
            values |= {"snapshot": live.get("sequence"), "chunks": live.get("chunks")}
        else:
            answered = found.metadata.get("answers", {})
            values |= {
                "batch": answered.get("batch"),
                "tasks": answered.get("tasks"),
                "outcomes": _outcomes(answered),
                "labels": _labels(answered),
            }
        return values


def show(console: Console, results: list[Result]) -> None:
    """What happened, as tables."""
    checks = [
        (f"{check.asset}", check.name, passed_text(check.passed, check.warning), check.description)
        for result in results
        if result.outcome
        for check in result.outcome.checks
    ]
    indexes = [r for r in results if r.kind == "index" and r.outcome]
    agents = [r for r in results if r.kind == "agent" and r.outcome]
    if indexes:
        columns = ("listed", "changed", "deleted", "failed", "embedded", "chunks", "snapshot")
        rows = [(r.name, *(_shown(r.as_json().get(column)) for column in columns)) for r in indexes]
        console.print(table(("index", *columns), rows))
    if agents:
        rows = []
        for r in agents:
            answered = r.outcome.metadata.get("answers", {}) if r.outcome else {}
            rows.append(
                (
                    r.name,
                    _shown(answered.get("tasks")),
                    counts(_outcomes(answered)),
                    counts(_labels(answered)),
                    _shown(answered.get("tokens_per_second")),
                    " / ".join(_shown(answered.get(f"latency_{p}")) for p in ("p50", "p95")),
                )
            )
        named = ("agent", "tasks", "outcomes", "not true", "tokens/s", "p50 / p95 seconds")
        console.print(table(named, rows))
    if checks:
        console.print(table(("asset", "check", "", "observed"), checks))
    for r in agents:
        sample = r.outcome.metadata.get("answers", {}).get("sample") if r.outcome else None
        if sample:
            console.print(Markdown(str(sample).partition("\n\n---\n\n")[0]))
            console.print()
    for result in results:
        if result.error:
            console.print(
                f"[bold red]{result.kind} {result.name} failed:[/bold red] {escape(result.error)}",
                soft_wrap=True,
            )
        elif result.failed_checks:
            console.print(
                f"[bold red]{result.kind} {result.name}: checks failed:[/bold red] "
                + ", ".join(result.failed_checks)
            )
        for waits in result.unfinished:
            console.print(f"[yellow]{result.kind} {result.name} waits:[/yellow] {escape(waits)}")
    if all(result.ok for result in results):
        console.print("[green]everything that was checked is true[/green]")


def _outcomes(answered: Mapping[str, Any]) -> dict[str, int]:
    return _counted(answered, "outcome_")


def _labels(answered: Mapping[str, Any]) -> dict[str, int]:
    """How many answers were given while a signal of the index was not true, by signal."""
    return _counted(answered, "label_")


def _counted(answered: Mapping[str, Any], prefix: str) -> dict[str, int]:
    return {k.removeprefix(prefix): v for k, v in answered.items() if k.startswith(prefix)}


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
