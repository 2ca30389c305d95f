"""`run`, `sync` and `batch`: running an index's or an agent's job, with what it needs.

Belongs here: what is checked before, what is started, and in which order. Does not belong here: how
a result reads (`results.py`).
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from rich.console import Console

from agent_pipelines.agents.tasks.reading import digest_of
from agent_pipelines.commands.results import Result
from agent_pipelines.errors import UserError
from agent_pipelines.session import Session
from agent_pipelines.terminal import TerminalProgress, waiting
from resources.embedder import EmbedderResource
from resources.state import StateResource
from resources.weaviate import WeaviateResource


def check_inputs(session: Session, console: Console) -> None:
    """See that everything a run will need to read can be read, before anything is started.

    Raises:
        UserError: a folder is broken, a source or an agent's tasks cannot be read, or see
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
        digest_of(agent.tasks())
    check_surroundings(session, console, loaded.indexes)


def check_surroundings(session: Session, console: Console, names: Iterable[str]) -> None:
    """See that these indexes' embedders, the state database and a configured Weaviate can be used.

    In a job the same faults would be a failed run; here they are one message, and no run at all.

    Raises:
        UserError: one of them cannot be used as configured.
        UnavailableError: one of them does not answer.
    """
    with waiting(console, "embedder (made ready for this machine the first time: a minute)"):
        for name in names:
            session.loaded.index(name).model(EmbedderResource())
    if session.settings.weaviate_url:
        WeaviateResource().connect().close()
    StateResource().engine()


def run_everything(session: Session, console: Console) -> list[Result]:
    """Every index, then every agent."""
    loaded = session.loaded
    check_inputs(session, console)
    with ThreadPoolExecutor(1, thread_name_prefix="vllm") as background:
        llm: Future[None] | None = None
        news = _LastNews()
        if session.needs_vllm(loaded.agents):
            # It takes a minute to start, most of it waiting: let it start beside the indexing.
            llm = background.submit(session.start_llm, news)
        try:
            results = sync_indexes(session, console, list(loaded.indexes))
            if loaded.agents:
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
    return [_sync(session, console, name, config) for name in names]


def _sync(session: Session, console: Console, name: str, config: Mapping[str, Any]) -> Result:
    """The sync job; of a split index that of every partition, and then the commit."""
    component = session.loaded.index(name)
    ops = {f"{name}__index": {"config": config}}
    console.print(f"[bold]index {name}[/bold]")
    progress = TerminalProgress(console)
    if not component.partitions:
        outcome = session.run_job(component.job_name, progress, ops=ops)
        return Result("index", name, outcome, outcome.error)
    parts = [
        partial(session.run_job, component.job_name, progress, ops=ops, partition_key=key)
        for key in component.partitions
    ]
    first, *others = [*parts, partial(session.run_job, component.live_job_name, progress)]
    outcome = first()
    for run in others:
        if not outcome.success:
            break
        outcome = outcome.then(run())
    return Result("index", name, outcome, outcome.error)


def roll_back(session: Session, console: Console, name: str) -> Result:
    """Run the job that returns an index to the generation before."""
    with waiting(console, "Weaviate:") as say:
        session.start_weaviate(say)
    component = session.loaded.index(name)
    outcome = session.run_job(component.rollback_job_name, TerminalProgress(console))
    return Result("index", name, outcome, outcome.error)


def run_batch(session: Session, console: Console, name: str, config: Mapping[str, Any]) -> Result:
    """Run the batch of one agent, with what it needs. ``config``: see `BatchConfig`."""
    with waiting(console, "Weaviate:") as say:
        session.start_weaviate(say)
    if session.needs_vllm([name]):
        with waiting(console, "Model server:") as say:
            session.start_llm(say)
    with waiting(console, "Search tool:") as say:
        session.start_search(say)
    return _batch(session, console, name, config)


def _batches(
    session: Session, console: Console, llm: "Future[None] | None", news: "_LastNews"
) -> list[Result]:
    try:
        with waiting(console, "Search tool:") as say:
            session.start_search(say)
        if llm is not None:
            with waiting(console, "Model server:") as say:
                news.show_in(say)
                llm.result()
    except UserError as error:
        return [Result("agent", name, None, str(error)) for name in session.loaded.agents]
    return [_batch(session, console, name, {}) for name in session.loaded.agents]


def _batch(session: Session, console: Console, name: str, config: Mapping[str, Any]) -> Result:
    """The batch; of an agent whose tasks are split that of every partition."""
    component = session.loaded.agent(name)
    ops = {f"{name}__answers": {"config": dict(config)}}
    console.print(f"[bold]agent {name}[/bold]")
    run = partial(session.run_job, component.job_name, TerminalProgress(console), ops=ops)
    first, *others = component.partitions or [None]
    outcome = run(partition_key=first)
    for key in others:
        if not outcome.success:
            break
        outcome = outcome.then(run(partition_key=key))
    return Result("agent", name, outcome, outcome.error)


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
