"""`python -m tests.bench.fleet`: a day of agent batches on a mixed fleet, asked for in four ways.

Belongs here: the command line. Does not belong here: the day, the ways, or the clock.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agent_pipelines.settings import Settings
from agent_pipelines.terminal import waiting
from tests.bench.fleet import report
from tests.bench.fleet.day import day
from tests.bench.fleet.machines import FLEET
from tests.bench.fleet.policies import policies
from tests.bench.fleet.simulation import FLAGS, Outcome, Served, simulate
from tests.cluster.control_plane import ControlPlane


@contextmanager
def cluster() -> Iterator[ControlPlane]:
    """A control plane that is quick to answer, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        started = ControlPlane(Path(folder) / "cluster", flags=FLAGS)
        try:
            yield started
        finally:
            started.end()


def main(
    batches: Annotated[int, typer.Option(help="In a day.")] = 240,
    days: Annotated[int, typer.Option(help="Each with batches of its own.")] = 3,
    tool_seconds: Annotated[
        float,
        typer.Option(help="That a turn waits for tools; the device is idle meanwhile."),
    ] = 2.0,
    out: Annotated[
        Path | None, typer.Option(help="JSON; default: .agent-pipelines/bench/fleet.json.")
    ] = None,
) -> None:
    """Compare what a day of agent batches costs by how devices are asked for.

    Kubernetes' API server, scheduler and controllers are real; nodes and devices are objects that
    nobody runs, and the clock is simulated: a batch lasts as long as bandwidth, FLOP/s and its
    tools' time say for the device that the scheduler gave it. A device costs while it is held.
    """
    console = Console(stderr=True)
    outcomes = []
    with cluster() as control_plane:
        for policy in policies(FLEET):
            served: list[Served] = []
            for seed in range(days):
                with waiting(console, f"{policy.name}, day {seed + 1}:") as say:
                    work = day(batches, seed=seed, tool_seconds=tool_seconds)
                    served += simulate(control_plane, policy, work, say, seed=seed)
            outcomes.append(Outcome(policy, served))
    file = out or Settings().state_dir / "bench" / "fleet.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    settings = {"batches": batches, "days": days, "tool_seconds": tool_seconds}
    file.write_text(json.dumps({**settings, "policies": report.document(outcomes)}, indent=1))
    results = Console()
    # In a file or a pipe a table may be as wide as it is.
    (results if results.is_terminal else Console(width=200)).print(report.shown(outcomes))
    console.print(f"every batch: {file}")


if __name__ == "__main__":
    typer.run(main)
