"""kill -9 of a real syncing process, at every boundary between ledger and store.

Run as a program it is that process: it changes nothing but the moment of its death.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_pipelines.indexing import sync as sync_module
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.ledger import Ledger
from agent_pipelines.indexing.live import commit
from agent_pipelines.state.engine import open_engine
from resources.weaviate import WeaviateStore
from tests.engine import (
    MemorySource,
    TrippingStore,
    assert_exact,
    assert_healthy,
    document,
    make_index,
    named_index,
    run_sync,
    section,
    stored_in,
)

#: Documents before and after: edited, deleted, new, reordered, untouched.
BEFORE: dict[str, str | None] = {
    "edited.md": document("Edited", "one", "two", "three"),
    "deleted.md": document("Deleted", "one", "two"),
    "moved.md": section("one") + section("two") + section("three"),
    "same.md": document("Same", "one"),
}
AFTER: dict[str, str | None] = {
    "edited.md": document("Edited", "one", "zwei", "three", "four"),
    "moved.md": section("three") + section("one") + section("two"),
    "same.md": document("Same", "one"),
    "new.md": document("New", "one", "two"),
}

#: (object, method, which call, after it): where the process dies.
BOUNDARIES = [
    ("store", "write", 1, False),
    ("store", "write", 1, True),
    ("store", "write", 2, True),
    ("store", "move", 1, True),
    ("store", "delete", 1, False),
    ("store", "delete", 1, True),
    ("store", "delete", 2, True),
    ("ledger", "begin", 1, True),
    ("ledger", "confirm", 1, True),
    ("ledger", "confirm", 2, True),
]


def run_and_die(arguments: dict[str, Any]) -> None:
    """The process: sync the documents as they are now, in small batches, and die on the way."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    sync_module.BATCH_CHUNKS = 2
    where, method, call, after = arguments["boundary"]
    store: Any = WeaviateStore(**arguments["weaviate"])
    if where == "store":
        store = TrippingStore(store, die, method, call, after)
    else:
        real, calls = getattr(Ledger, method), iter(range(1, 1000))

        def dying(self: Ledger, *args: Any) -> None:
            real(self, *args)
            if next(calls) == call:
                die()

        setattr(Ledger, method, dying)
    engine = open_engine(arguments["state"])
    run_sync(make_index(arguments["name"], MemorySource(arguments["texts"]), store, engine))


@pytest.fixture
def index(store: WeaviateStore, state_url: str) -> Iterator[Index]:
    with named_index(store, open_engine(state_url), MemorySource()) as made:
        yield made


@pytest.fixture(scope="module")
def parent() -> Iterator[subprocess.Popen[str]]:
    """A process that has imported everything, and forks the ones that die."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, __file__],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


Kill = Callable[[Index, Any], int]


@pytest.fixture
def kill(parent: subprocess.Popen[str], weaviate_url: dict[str, str], state_url: str) -> Kill:
    """Sync an index in a process that dies at a boundary; returns the signal it died of."""

    def run(index: Index, boundary: Any) -> int:
        assert isinstance(index.source, MemorySource)
        assert parent.stdin is not None
        assert parent.stdout is not None
        arguments = {
            "boundary": boundary,
            "weaviate": weaviate_url,
            "state": state_url,
            "name": index.name,
            "texts": index.source.texts,
        }
        print(json.dumps(arguments), file=parent.stdin, flush=True)
        return int(parent.stdout.readline())

    return run


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda b: "-".join(map(str, b)))
def test_the_sync_after_a_kill_is_exact_and_readers_never_see_a_gap(
    index: Index, kill: Kill, boundary: Any
) -> None:
    """Nothing lost, nothing twice, and no document without any chunk in between."""
    source = MemorySource(BEFORE)
    index = replace(index, source=source)
    run_sync(index)
    commit(index)
    source.texts = dict(AFTER)

    died_of = kill(index, boundary)

    assert died_of == signal.SIGKILL, "the process ended before it reached the boundary"
    served = {stored.chunk.document_id for stored in stored_in(index).values()}
    assert served >= BEFORE.keys() & AFTER.keys(), "a document was without any chunk"
    run_sync(index)  # at once: a lease of a dead process holds nobody up
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)


def test_a_first_sync_killed_before_the_ledger_knows_its_collection(
    index: Index, kill: Kill
) -> None:
    """The half-born collection is nobody's; the next sync builds another and is exact."""
    source = MemorySource(BEFORE)
    index = replace(index, source=source)
    assert kill(index, ("store", "create_collection", 1, True)) == signal.SIGKILL
    run_sync(index)
    commit(index)
    assert_exact(index, source)
    assert_healthy(index)


if __name__ == "__main__":
    import weaviate  # noqa: F401  # once, for all that are forked

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run_and_die(json.loads(line))
            os._exit(0)
        print(-os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
