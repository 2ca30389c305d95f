"""`python -m tests.bench.api_load`: the API past saturation, and what two tenants get of it.

Belongs here: closed loops of more and more clients against a model of fixed latency, and a tenant
who asks ten times as much as the other. Does not belong here: how fast a model is.

An open queue would let the time to an answer grow with every client that comes; here it is bounded
by the places and the room to wait. Whoever comes beyond that is told 429 at once, and asks again.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
import numpy as np
import typer
from rich.console import Console

from agent_pipelines.terminal import passed_text, table
from tests import shell_server
from tests.api_server import Api, serving, write_assets
from tests.scripted_model import ScriptedModel, Turn, says

#: Of the API that is measured: places, and room to wait.
_PLACES, _WAITING = 8, 16

#: Seconds that the model takes for the one turn of a task.
_TURN = 0.2

#: What fills all places and all room to wait; any more are past saturation.
_FULL = _PLACES + _WAITING

#: How many times the mean that follows from the rate, by Little's law, a load's p95 may be. Were
#: nobody refused, it would be more than five times with as many clients as here.
_BOUND = 2.5

#: Seconds of each load until places and queue are what it makes of them; they are not counted.
_SETTLE = 2.0

#: The smaller part of the places that two tenants who both always wait may get.
_FAIR = 0.4

_TENANTS = ("north", "south")


@dataclass
class Seen:
    """What one tenant's clients saw."""

    seconds: list[float] = field(default_factory=list)
    """Of each task that was answered, without the times it was refused."""
    statuses: Counter[int] = field(default_factory=Counter)

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.seconds, share)) if self.seconds else float("nan")


async def _client(
    http: httpx2.AsyncClient, tenant: str, since: float, until: float, seen: Seen
) -> None:
    headers = {"authorization": f"Bearer {tenant}-secret"}
    while time.monotonic() < until:
        began = time.monotonic()
        answer = await http.post("/agents/clerk/tasks", json={"question": "x"}, headers=headers)
        if since <= time.monotonic() <= until:
            seen.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                seen.seconds.append(time.monotonic() - began)
        if answer.status_code != 200:
            # Sooner than it is told to: this is about those who do not behave.
            await asyncio.sleep(0.5)


async def load(api: Api, clients: dict[str, int], seconds: float) -> dict[str, Seen]:
    """So many clients of each tenant, each asking again as soon as it is answered."""
    seen = {tenant: Seen() for tenant in clients}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with (
        httpx2.AsyncClient(base_url=api.url, limits=limits, timeout=60) as http,
        asyncio.TaskGroup() as group,
    ):
        since = time.monotonic() + _SETTLE
        for tenant, count in clients.items():
            for _ in range(count):
                group.create_task(_client(http, tenant, since, since + seconds, seen[tenant]))
    return seen


@contextmanager
def loaded_api(folder: Path) -> Iterator[Api]:
    """The API over a model that takes its time, for two tenants."""

    def script(_body: dict[str, Any]) -> Turn:
        return says({"answer": "x"}, delay=_TURN)

    tokens = folder / "tokens"
    tokens.write_text("".join(f"{tenant} {tenant}-secret\n" for tenant in _TENANTS))
    limits = {"max_concurrent": _PLACES, "max_waiting": _WAITING, "token_file": tokens}
    with (
        shell_server.running(folder / "tools") as tools,
        ScriptedModel(script) as model,
        serving(folder / "api", write_assets(folder, tools.url), model.base_url, **limits) as api,
    ):
        yield api


@dataclass(frozen=True)
class Step:
    """One load, and what came of it."""

    clients: dict[str, int]
    seen: dict[str, Seen]
    seconds: float

    @property
    def shares(self) -> list[float]:
        """Of all answers, by tenant."""
        answered = [len(each.seconds) for each in self.seen.values()]
        return [count / max(1, sum(answered)) for count in answered]

    @property
    def p95(self) -> float:
        """Of all tenants: in means of a system that is never fuller than it may be.

        Little's law: at most `_FULL` tasks in it, so many answers a second, so long does each take.
        """
        took = [seconds for each in self.seen.values() for seconds in each.seconds]
        if not took:
            return float("inf")
        mean = min(_FULL, sum(self.clients.values())) / (len(took) / self.seconds)
        return float(np.percentile(took, 95)) / mean

    def rows(self) -> Iterator[tuple[str, ...]]:
        for (tenant, seen), share in zip(self.seen.items(), self.shares, strict=True):
            yield (
                tenant,
                str(self.clients[tenant]),
                f"{len(seen.seconds) / self.seconds:.1f}",
                f"{share:.0%}",
                f"{seen.percentile(50):.2f}",
                f"{seen.percentile(95):.2f}",
                f"{max(seen.seconds, default=float('nan')):.2f}",
                str(seen.statuses[429]),
                str(sum(n for status, n in seen.statuses.items() if status not in (200, 429))),
            )


def measure(seconds: float) -> Sequence[Step]:
    """Below saturation, at it, far past it; then one tenant with ten times the other's clients."""
    with tempfile.TemporaryDirectory() as folder, loaded_api(Path(folder)) as api:
        asyncio.run(load(api, {"north": 2}, 2.0))  # connections, caches, the tools' listing
        steps = []
        for clients in (
            {"north": 4},
            {"north": 8},
            {"north": _FULL},
            {"north": 64},
            {"north": 128},
            {"north": 80, "south": 16},
        ):
            steps.append(Step(clients, asyncio.run(load(api, clients, seconds)), seconds))
        return steps


def verdicts(steps: Sequence[Step]) -> list[tuple[bool, str]]:
    """What must hold, and whether it does."""
    all_seen = [seen for step in steps for seen in step.seen.values()]
    worst = max(step.p95 for step in steps)
    refused = sum(seen.statuses[429] for seen in all_seen)
    others = sum(
        n for seen in all_seen for status, n in seen.statuses.items() if status not in (200, 429)
    )
    share = min(steps[-1].shares)
    return [
        (worst <= _BOUND, f"p95 of every load at most {worst:.1f} times its mean, of {_BOUND:g}"),
        (refused > 0, f"{refused} times 429 past the room to wait"),
        (others == 0, f"{others} other errors"),
        (share >= _FAIR, f"the smaller of two tenants got {share:.0%}, at least {_FAIR:.0%}"),
    ]


def main(
    seconds: Annotated[float, typer.Option(help="For each load.")] = 8.0,
) -> None:
    """Print what each load came to; exit code 1 where something does not hold."""
    console = Console()
    steps = measure(seconds)
    head = ("tenant", "clients", "answers/s", "share", "p50 s", "p95 s", "max s", "429", "other")
    console.print(f"{_PLACES} places, room for {_WAITING} to wait, {_TURN} s a task")
    console.print(table(head, [row for step in steps for row in step.rows()]))
    found = verdicts(steps)
    console.print(table(("", "what"), [(passed_text(good), said) for good, said in found]))
    if not all(good for good, _ in found):
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
