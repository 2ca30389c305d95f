"""`run`, `sync` and `batch`: running an index's or an agent's job and showing how it ended.

Belongs here: starting what a job needs, the job itself, and its result as data and as a table.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from agent_pipelines.agents.tasks import read_tasks
from agent_pipelines.errors import UserError
from agent_pipelines.session import JobOutcome, Session
from agent_pipelines.terminal import TerminalProgress, counts, passed_text, table, waiting
from resources.embedder import EmbedderResource
from resources.state import StateResource
from resources.weaviate import WeaviateResource

#: What a program reads of an index's run.
_SYNC_COUNTS = (
    "listed", "changed", "deleted", "failed", "written", "embedded", "retired", "repaired",
)  # fmt: skip


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
        return self.outcome is not None and self.error is None and not self.failed_checks

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
            }
        return values


def check_inputs(session: Session) -> None:
    """See that everything a run will need to read can be read, before anything is started.

    Raises:
        UserError: a folder is broken, a source or a tasks file cannot be read, or see
            `check_surroundings`.
    """
    loaded = session.loaded
    for name, reason in loaded.broken.items():
        raise UserError(
            f"assets folder {name!r} cannot be loaded: {reason}",
            remedy=f"correct or remove {loaded.folder / name}",
        )
    for component in loaded.indexes.values():
        component.source.check()
    for agent in loaded.agents.values():
        read_tasks(agent.tasks_file())
    check_surroundings(session, loaded.indexes)


def check_surroundings(session: Session, names: Iterable[str]) -> None:
    """See that these indexes' embedders, the state database and a configured Weaviate can be used.

    In a job the same faults would be a failed run; here they are one message, and no run at all.

    Raises:
        UserError: one of them cannot be used as configured.
        UnavailableError: one of them does not answer.
    """
    for name in names:
        session.loaded.index(name).model(EmbedderResource())
    if session.settings.weaviate_url:
        WeaviateResource().connect().close()
    StateResource().engine()


def run_everything(session: Session, console: Console) -> list[Result]:
    """Every index, then every agent."""
    loaded = session.loaded
    check_inputs(session)
    with ThreadPoolExecutor(1, thread_name_prefix="vllm") as background:
        llm: Future[None] | None = None
        news = _LastNews()
        if loaded.agents:
            # It takes a minute to start, most of it waiting: let it start beside the indexing.
            llm = background.submit(session.start_llm, news)
        try:
            results = sync_indexes(session, console, list(loaded.indexes))
            if llm is not None:
                results += _batches(session, console, llm, news)
        except BaseException:
            # Ctrl-C included: leaving this block waits for the thread, so end what it waits for.
            session.close()
            raise
    return results


def sync_indexes(
    session: Session,
    console: Console,
    names: list[str],
    *,
    accept_deletions: bool = False,
    verify: bool = False,
) -> list[Result]:
    """Run the job of each of these indexes."""
    with waiting(console, "Weaviate:") as say:
        session.start_weaviate(say)
    config = {"accept_deletions": accept_deletions, "verify": verify}
    return [
        _job(session, console, "index", name, {f"{name}__index": {"config": config}})
        for name in names
    ]


def run_batch(session: Session, console: Console, name: str, tasks: str | None) -> Result:
    """Run the batch of one agent, with what it needs."""
    with waiting(console, "Weaviate:") as say:
        session.start_weaviate(say)
    with waiting(console, "Model server:") as say:
        session.start_llm(say)
    with waiting(console, "Search tool:") as say:
        session.start_search(say)
    return _batch(session, console, name, tasks)


def _batches(
    session: Session, console: Console, llm: "Future[None]", news: "_LastNews"
) -> list[Result]:
    try:
        with waiting(console, "Search tool:") as say:
            session.start_search(say)
        with waiting(console, "Model server:") as say:
            news.show_in(say)
            llm.result()
    except UserError as error:
        return [Result("agent", name, None, str(error)) for name in session.loaded.agents]
    return [_batch(session, console, name, None) for name in session.loaded.agents]


def _batch(session: Session, console: Console, name: str, tasks: str | None) -> Result:
    config = {"tasks": tasks} if tasks else {}
    return _job(session, console, "agent", name, {f"{name}__answers": {"config": config}})


def _job(
    session: Session, console: Console, kind: str, name: str, ops: Mapping[str, Any]
) -> Result:
    console.print(f"[bold]{kind} {name}[/bold]")
    job = f"{name}_sync" if kind == "index" else f"{name}_batch"
    outcome = session.run_job(job, TerminalProgress(console), ops=ops)
    return Result(kind, name, outcome, outcome.error)


class _LastNews:
    """News of a part that starts in the background: kept until somebody watches."""

    def __init__(self) -> None:
        self._show: Any = None
        self._last = ""

    def __call__(self, news: str) -> None:
        self._last = news
        if self._show:
            self._show(news)

    def show_in(self, say: Any) -> None:
        self._show = say
        if self._last:
            say(self._last)


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
                    _shown(answered.get("tokens_per_second")),
                    " / ".join(_shown(answered.get(f"latency_{p}")) for p in ("p50", "p95")),
                )
            )
        console.print(table(("agent", "tasks", "outcomes", "tokens/s", "p50 / p95 seconds"), rows))
    if checks:
        console.print(table(("asset", "check", "", "observed"), checks))
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


def _outcomes(answered: Mapping[str, Any]) -> dict[str, int]:
    prefix = "outcome_"
    return {k.removeprefix(prefix): v for k, v in answered.items() if k.startswith(prefix)}


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
