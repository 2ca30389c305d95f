"""Syncs that die on the way, or whose Weaviate does.

Belongs here: a process that has imported everything and forks the ones that are killed. Does not
belong here: what must hold afterwards (the tests).
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent_pipelines.indexing import sync as sync_module
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.ledger import Ledger
from agent_pipelines.state.engine import open_engine
from tests.engine import MemorySource, TrippingStore, make_index, run_sync

#: Chunks per batch: small, so that a sync of a few documents has many phases.
BATCH_CHUNKS = 2


@dataclass(frozen=True)
class Boundary:
    """Between two phases of a sync: before or after the nth call of a method."""

    where: str
    """`store` or `ledger`."""
    method: str
    call: int
    after: bool

    def __str__(self) -> str:
        return f"{self.where}-{self.method}-{self.call}-{'after' if self.after else 'before'}"


@dataclass(frozen=True)
class Death:
    """Who is killed (-9), and when: at a boundary, or so many seconds after the sync began."""

    boundary: Boundary | None = None
    seconds: float | None = None
    pid: int | None = None
    """Weaviate's, to kill that; else it is the sync's own process that dies."""


#: One of each kind of step, and the batches after the first where it differs.
BOUNDARIES = [
    Boundary("store", "write", 1, False),
    Boundary("store", "write", 1, True),
    Boundary("store", "write", 2, True),
    Boundary("store", "move", 1, True),
    Boundary("store", "delete", 1, False),
    Boundary("store", "delete", 1, True),
    Boundary("store", "delete", 2, True),
    Boundary("ledger", "begin", 1, True),
    Boundary("ledger", "confirm", 1, True),
    Boundary("ledger", "confirm", 2, True),
]


class Syncs:
    """Runs syncs in processes of their own, one after the other."""

    def __init__(self, process: subprocess.Popen[str], weaviate: Mapping[str, str]) -> None:
        self._process = process
        self._weaviate = weaviate

    def run(self, index: Index, death: Death) -> int:
        """Sync the index as its source is now; returns the signal it died of, 0 if it did not."""
        assert isinstance(index.source, MemorySource)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        arguments = {
            "death": asdict(death),
            "weaviate": dict(self._weaviate),
            "state": index.engine.url.render_as_string(hide_password=False),
            "name": index.name,
            "texts": index.source.texts,
        }
        print(json.dumps(arguments), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


@contextmanager
def syncs(weaviate: Mapping[str, str]) -> Iterator[Syncs]:
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, __file__],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Syncs(process, weaviate)
        assert process.stdin is not None
        process.stdin.close()


def sync_and_die(arguments: dict[str, Any]) -> None:
    """The process: sync the documents as they are now, in small batches, and die on the way."""
    from resources.weaviate import WeaviateStore

    death = Death(**arguments["death"])
    victim = death.pid or os.getpid()

    def kill() -> None:
        os.kill(victim, signal.SIGKILL)

    sync_module.BATCH_CHUNKS = BATCH_CHUNKS
    store: Any = WeaviateStore(**arguments["weaviate"])
    if death.boundary is not None:
        store = _killing(Boundary(**death.boundary), kill, store)  # type: ignore[arg-type]
    engine = open_engine(arguments["state"])
    index = make_index(arguments["name"], MemorySource(arguments["texts"]), store, engine)
    if death.seconds is not None:
        threading.Timer(death.seconds, kill).start()
    run_sync(index)


def _killing(boundary: Boundary, kill: Any, store: Any) -> Any:
    if boundary.where == "store":
        return TrippingStore(store, kill, boundary.method, boundary.call, boundary.after)
    real, calls = getattr(Ledger, boundary.method), iter(range(1, 1_000_000))

    def killing(self: Ledger, *args: Any) -> None:
        this = next(calls) == boundary.call
        if this and not boundary.after:
            kill()
        real(self, *args)
        if this and boundary.after:
            kill()

    setattr(Ledger, boundary.method, killing)
    return store


if __name__ == "__main__":
    import weaviate  # noqa: F401  # once, for all that are forked

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                sync_and_die(json.loads(line))
            finally:
                os._exit(0)  # one that could not go on without its Weaviate included
        print(-os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
