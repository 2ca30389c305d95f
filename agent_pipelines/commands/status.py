"""`status`: what is true right now, per index and agent, and of the machinery.

Belongs here: which parts it takes to know, and the tables. Does not belong here: gathering it
(`agent_pipelines/status.py`).
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape

from agent_pipelines.errors import UserError
from agent_pipelines.health import machinery
from agent_pipelines.health.evaluate import Recorded
from agent_pipelines.health.signal import State, worst
from agent_pipelines.health.signals import catalogue
from agent_pipelines.local.dagster_home import home
from agent_pipelines.local.parts import find
from agent_pipelines.session import Session
from agent_pipelines.status import (
    AgentStatus,
    Daemon,
    IndexStatus,
    Repairing,
    agent_status,
    index_status,
    machinery_status,
)
from agent_pipelines.terminal import ago, counts, state_text, table, waiting
from resources.state import StateResource

#: What `status` exits with for the worst state it found.
_EXIT_CODES = {State.TRUE: 0, State.FALSE: 1, State.CANNOT_TELL: 2}


def gather(
    session: Session, console: Console
) -> tuple[list[IndexStatus], list[AgentStatus], list[Recorded]]:
    """Look at every index and agent, and at the machinery.

    Starts a Weaviate where none runs, except under `dev`: there a dead one is something to report,
    not to repair behind its back.
    """
    loaded, engine = session.loaded, StateResource().engine()
    try:
        with waiting(console, "Weaviate:") as say:
            session.start_weaviate(say, start=not session.under_dev)
    except UserError as error:
        console.print(f"[yellow]{escape(error.message)}[/yellow]")
    indexes = [index_status(component, session.instance) for component in loaded.indexes.values()]
    agents = [agent_status(engine, name) for name in loaded.agents]
    return indexes, agents, machinery_status(loaded, session.settings.state_dir, _daemon(session))


def _daemon(session: Session) -> Daemon | None:
    """The daemon that is expected: that of the `dev` here, else that of a deployment.

    After a plain `run` on a laptop there is neither, and that none is alive is as it should be.
    """
    settings = session.settings
    if part := find(settings.state_dir, "dagster"):
        return Daemon(home(settings.state_dir), datetime.fromtimestamp(part.since, UTC))
    return Daemon(settings.dagster_home) if settings.dagster_home else None


def exit_code(indexes: list[IndexStatus], seen: list[Recorded]) -> int:
    """What `status` exits with."""
    return _EXIT_CODES[worst([*(i.state for i in indexes), *(signal.state for signal in seen)])]


def show(
    console: Console,
    indexes: list[IndexStatus],
    agents: list[AgentStatus],
    seen: list[Recorded],
) -> None:
    """The tables."""
    for index in indexes:
        snapshot = index.snapshot
        heading = (
            f"snapshot {snapshot.sequence}, committed {ago(snapshot.committed_at)}, "
            f"{snapshot.documents:,} documents, {snapshot.chunks:,} chunks, "
            f"staleness {index.staleness_seconds:.0f} s"
            if snapshot
            else "never committed"
        )
        console.print(f"[bold]index {index.name}[/bold]  {heading}")
        _show_signals(console, index.signals)
        for repair in index.repairs:
            console.print(f"[bold]repair[/bold] of {repair.signal}: {_under_way(repair)}")
    console.print("[bold]machinery[/bold]")
    _show_signals(console, seen)
    if agents:
        rows = [
            (
                agent.name,
                agent.state or "no batch yet",
                ago(agent.started_at) if agent.started_at else "–",
                counts(agent.outcomes),
            )
            for agent in agents
        ]
        console.print(table(("agent", "last batch", "started", "outcomes"), rows))


def _show_signals(console: Console, signals: Sequence[Recorded]) -> None:
    runbooks = {signal.name: signal.runbook for signal in catalogue()}
    runbooks |= {signal.name: signal.runbook for signal in machinery.catalogue()}
    console.print(
        table(
            ("signal", "state", "since", "evaluated", "observed"),
            [
                (s.name, state_text(s.state), ago(s.since), ago(s.evaluated_at), s.observed)
                for s in signals
            ],
        )
    )
    for signal in signals:
        if signal.state is State.FALSE:
            console.print(f"[bold red]{signal.name}[/bold red]: {runbooks[signal.name]}")
            for row in signal.evidence[:5]:
                shown = ", ".join(f"{k} {v}" for k, v in row.items())
                console.print(f"  {shown}", markup=False)


def _under_way(repair: Repairing) -> str:
    tried = f"asked for {repair.attempts} times"
    if repair.run_id:
        return f"{tried}, run {repair.run_id} is under way"
    again = f"{repair.next_at.astimezone():%H:%M:%S}"
    if repair.gave_up:
        return f"[bold red]given up[/bold red], {tried}; somebody must look. Next try at {again}"
    return f"{tried}, next try not before {again}"


def as_json(
    indexes: list[IndexStatus],
    agents: list[AgentStatus],
    seen: list[Recorded],
    broken: dict[str, str],
) -> dict[str, Any]:
    """The same for programs."""
    return {
        "indexes": {i.name: asdict(i) | {"state": i.state} for i in indexes},
        "agents": {a.name: asdict(a) for a in agents},
        "machinery": {
            "signals": [asdict(signal) for signal in seen],
            "state": worst(signal.state for signal in seen),
        },
        "broken": broken,
    }
