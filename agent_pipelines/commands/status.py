"""`status`: what is true right now, per index and agent.

Belongs here: which parts it takes to know, and the tables. Does not belong here: gathering it
(`agent_pipelines/status.py`).
"""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape

from agent_pipelines.errors import UserError
from agent_pipelines.health.signal import State, worst
from agent_pipelines.health.signals import catalogue
from agent_pipelines.session import Session
from agent_pipelines.status import (
    AgentStatus,
    IndexStatus,
    Repairing,
    agent_status,
    index_status,
)
from agent_pipelines.terminal import ago, counts, state_text, table, waiting
from resources.state import StateResource

#: What `status` exits with for the worst state it found.
_EXIT_CODES = {State.TRUE: 0, State.FALSE: 1, State.CANNOT_TELL: 2}


def gather(session: Session, console: Console) -> tuple[list[IndexStatus], list[AgentStatus]]:
    """Look at every index and agent; starts a Weaviate where none runs, except under `dev`.

    Under `dev` a dead Weaviate is something to report, not to repair behind its back.
    """
    loaded, engine = session.loaded, StateResource().engine()
    try:
        with waiting(console, "Weaviate:") as say:
            session.start_weaviate(say, start=not session.under_dev)
    except UserError as error:
        console.print(f"[yellow]{escape(error.message)}[/yellow]")
    indexes = [index_status(component, session.instance) for component in loaded.indexes.values()]
    return indexes, [agent_status(engine, name) for name in loaded.agents]


def exit_code(indexes: list[IndexStatus], broken: bool) -> int:
    """What `status` exits with; of a folder that cannot be loaded nothing can be told."""
    unloaded = [State.CANNOT_TELL] if broken else []
    return _EXIT_CODES[worst([*(index.state for index in indexes), *unloaded])]


def show(console: Console, indexes: list[IndexStatus], agents: list[AgentStatus]) -> None:
    """The tables."""
    runbooks = {signal.name: signal.runbook for signal in catalogue()}
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
        console.print(
            table(
                ("signal", "state", "since", "evaluated", "observed"),
                [
                    (s.name, state_text(s.state), ago(s.since), ago(s.evaluated_at), s.observed)
                    for s in index.signals
                ],
            )
        )
        for signal in index.signals:
            if signal.state is State.FALSE:
                console.print(f"[bold red]{signal.name}[/bold red]: {runbooks[signal.name]}")
                for row in signal.evidence[:5]:
                    shown = ", ".join(f"{k} {v}" for k, v in row.items())
                    console.print(f"  {shown}", markup=False)
        for repair in index.repairs:
            console.print(f"[bold]repair[/bold] of {repair.signal}: {_under_way(repair)}")
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


def _under_way(repair: Repairing) -> str:
    tried = f"asked for {repair.attempts} times"
    if repair.run_id:
        return f"{tried}, run {repair.run_id} is under way"
    again = f"{repair.next_at.astimezone():%H:%M:%S}"
    if repair.gave_up:
        return f"[bold red]given up[/bold red], {tried}; somebody must look. Next try at {again}"
    return f"{tried}, next try not before {again}"


def as_json(
    indexes: list[IndexStatus], agents: list[AgentStatus], broken: dict[str, str]
) -> dict[str, Any]:
    """The same for programs."""
    return {
        "indexes": {i.name: asdict(i) | {"state": i.state} for i in indexes},
        "agents": {a.name: asdict(a) for a in agents},
        "broken": broken,
    }
