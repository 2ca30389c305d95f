"""`status`: what is true right now, per index, agent and tool server, and of the machinery.

Belongs here: which parts it takes to know, and the tables. Does not belong here: gathering it
(`agent_pipelines/status.py`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

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
    ToolServerStatus,
    agent_status,
    index_status,
    machinery_status,
    tool_server_status,
)
from agent_pipelines.terminal import ago, counts, state_text, table, waiting
from resources.state import StateResource

#: What `status` exits with for the worst state it found.
_EXIT_CODES = {State.TRUE: 0, State.FALSE: 1, State.CANNOT_TELL: 2}


@dataclass(frozen=True)
class Gathered:
    """What there is, and how it is."""

    indexes: list[IndexStatus]
    agents: list[AgentStatus]
    tool_servers: list[ToolServerStatus]
    machinery: list[Recorded]

    @property
    def exit_code(self) -> int:
        """What `status` exits with."""
        states = [index.state for index in self.indexes]
        return _EXIT_CODES[worst([*states, *(signal.state for signal in self.machinery)])]


def gather(session: Session, console: Console) -> Gathered:
    """Look at every index, agent and tool server, and at the machinery.

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
    return Gathered(
        indexes,
        agents,
        tool_server_status(engine, loaded, session.instance),
        machinery_status(loaded, session.settings.state_dir, _daemon(session)),
    )


def _daemon(session: Session) -> Daemon | None:
    """The daemon that is expected: that of the `dev` here, else that of a deployment.

    After a plain `run` on a laptop there is neither, and that none is alive is as it should be.
    """
    settings = session.settings
    if part := find(settings.state_dir, "dagster"):
        return Daemon(home(settings.state_dir), datetime.fromtimestamp(part.since, UTC))
    return Daemon(settings.dagster_home) if settings.dagster_home else None


def show(console: Console, found: Gathered) -> None:
    """The tables."""
    for index in found.indexes:
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
    _show_signals(console, found.machinery)
    if found.agents:
        rows = [
            (
                agent.name,
                agent.state or "no batch yet",
                ago(agent.started_at) if agent.started_at else "–",
                counts(agent.outcomes),
            )
            for agent in found.agents
        ]
        console.print(table(("agent", "last batch", "started", "outcomes"), rows))
    if found.tool_servers:
        _show_tool_servers(console, found.tool_servers)


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


def _show_tool_servers(console: Console, servers: Sequence[ToolServerStatus]) -> None:
    rows: list[tuple[str | Text, ...]] = []
    for server in servers:
        reached = Text("yes", "green") if server.reachable else Text("NO", "bold red")
        for first, use in zip([True, *[False] * len(server.agents)], server.agents, strict=False):
            rows.append(
                (
                    *((server.name, reached, server.observed) if first else ("", "", "")),
                    use.agent,
                    f"{use.breaker}, {ago(use.heard_at)}" if use.heard_at else "–",
                    "–" if use.error_share is None else f"{use.error_share:.1%}",
                )
            )
    columns = ("tool server", "reachable", "observed", "agent", "breaker", "failed in last batch")
    console.print(table(columns, rows))


def _under_way(repair: Repairing) -> str:
    tried = f"asked for {repair.attempts} times"
    if repair.run_id:
        return f"{tried}, run {repair.run_id} is under way"
    again = f"{repair.next_at.astimezone():%H:%M:%S}"
    if repair.gave_up:
        return f"[bold red]given up[/bold red], {tried}; somebody must look. Next try at {again}"
    return f"{tried}, next try not before {again}"


def as_json(found: Gathered, broken: dict[str, str]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "indexes": {i.name: asdict(i) | {"state": i.state} for i in found.indexes},
        "agents": {a.name: asdict(a) for a in found.agents},
        "tool_servers": {server.name: asdict(server) for server in found.tool_servers},
        "machinery": {
            "signals": [asdict(signal) for signal in found.machinery],
            "state": worst(signal.state for signal in found.machinery),
        },
        "broken": broken,
    }
