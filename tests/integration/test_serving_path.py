"""What readers get, over the search tool as agents call it: probed, labelled and blocked.

A real Weaviate and a search server in a process of its own, which this file is when run as a
program.
"""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from agent_pipelines.agents.tools import ToolResult
from agent_pipelines.health.evaluate import evaluate, look, record, tick
from agent_pipelines.health.readers import CheckedSearcher
from agent_pipelines.health.signal import Reading, Signal, State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from agent_pipelines.indexing.embedding import Vectors
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import commit
from agent_pipelines.state.engine import open_engine
from agent_pipelines.toolservers import search, shell
from resources.tool_path import ToolPath
from resources.tools import ToolServerResource
from resources.weaviate import WeaviateResource, WeaviateStore
from tests.engine import (
    HashEmbedder,
    MemorySource,
    assert_healthy,
    collection_of,
    document,
    make_index,
    raw,
    run_sync,
    section,
    states,
    stored_in,
)
from tests.loopback import free_port
from tests.processes import until

SIGNALS = {found.name: found for found in catalogue()}
CANARY = SIGNALS["search_serves_snapshot"]
KNOWN = SIGNALS["known_items_found"]
DELETED = SIGNALS["deleted_items_not_served"]


class Turned(HashEmbedder):
    """Another model under the same name."""

    def vector(self, text: str) -> Vectors:
        turned: Vectors = np.roll(super().vector(text), 3)
        return turned


MODELS: dict[str, Callable[[], HashEmbedder]] = {"hash": HashEmbedder, "turned": Turned}


class Served:
    """An index, and a search tool server over it."""

    def __init__(self, index: Index, process: "subprocess.Popen[bytes]", url: str) -> None:
        self.process = process
        self.url = url
        self.index = replace(index, served_by=lambda: ToolPath(url, deadline=3))

    def read(self, signal_: Signal) -> Reading:
        """One signal, as it is read through the tool."""
        with View(self.index, committed=True) as view:
            return look(view, [signal_])[signal_]

    def call(self, tool: str, **arguments: Any) -> ToolResult:
        """What an agent gets."""

        async def main() -> ToolResult:
            async with ToolServerResource(url=self.url).session() as session:
                return await session.call(tool, {"index": self.index.name, **arguments})

        return asyncio.run(main())


Serve = Callable[..., Served]


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({f"d{n}.md": document(f"Doc{n}", f"one{n}", f"two{n}") for n in range(6)})


@pytest.fixture
def committed(index: Index) -> Index:
    run_sync(index)
    commit(index)
    return index


@pytest.fixture
def serve(weaviate_url: dict[str, str], engine: Engine) -> Iterator[Serve]:
    """Starts search servers; ended with the test."""
    with ExitStack() as stack:

        def start(
            index: Index,
            *,
            name: str | None = None,
            state_url: str | None = None,
            model: str = "hash",
            when_false: str = "label",
        ) -> Served:
            port = free_port()
            given = {
                "port": port,
                "weaviate": weaviate_url,
                "state": state_url or engine.url.render_as_string(),
                "index": name or index.name,
                "model": model,
                "when_false": when_false,
            }
            root = Path(__file__).parents[2]
            process = subprocess.Popen(
                [sys.executable, __file__, json.dumps(given)],
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root)},
            )
            stack.callback(process.wait)
            stack.callback(process.kill)

            def up() -> bool:
                assert process.poll() is None
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        return True
                except OSError:
                    return False

            until(up, 60, "the search server")
            return Served(index, process, f"http://127.0.0.1:{port}/mcp")

        yield start


def test_a_healthy_index_is_probed_through_the_tool_and_the_server_embeds(
    committed: Index, serve: Serve, source: MemorySource
) -> None:
    served = serve(committed)
    committed.embedder.texts.clear()  # type: ignore[attr-defined]
    reading = served.read(CANARY)
    assert reading.state is State.TRUE
    assert f"through the search tool at {served.url}" in reading.observed
    assert committed.embedder.texts == [], "the tick loads no model"  # type: ignore[attr-defined]
    assert "12 of 12 known items found" in served.read(KNOWN).observed
    source.texts["d0.md"] = document("Doc0", "edited")
    run_sync(served.index)
    commit(served.index)
    assert "0 of 2 deleted chunks served" in served.read(DELETED).observed
    assert_healthy(served.index)


def test_without_a_server_the_same_is_asked_in_this_process(committed: Index) -> None:
    committed.embedder.texts.clear()  # type: ignore[attr-defined]
    with View(committed, committed=True) as view:
        reading = look(view, [CANARY])[CANARY]
    assert reading.state is State.TRUE
    assert "in this process" in reading.observed
    assert committed.embedder.texts == [], "the tick loads no model here either"  # type: ignore[attr-defined]
    assert_healthy(committed)


def test_a_server_on_an_old_state_database_is_caught(
    committed: Index, serve: Serve, source: MemorySource, engine: Engine, tmp_path: Path
) -> None:
    """As after a restore of the wrong backup, or a server that was left behind by a move."""
    old = tmp_path / "old.db"
    with (
        closing(sqlite3.connect(str(engine.url.database))) as now,
        closing(sqlite3.connect(old)) as copy,
    ):
        now.backup(copy)
    source.texts["d6.md"] = document("Doc6", "six")
    run_sync(committed)
    commit(committed)
    reading = serve(committed, state_url=f"sqlite:///{old}").read(CANARY)
    assert reading.state is State.FALSE
    assert reading.observed.startswith("snapshot 1, through the search tool")
    assert reading.expected.startswith("snapshot 2")


def test_a_server_on_a_foreign_state_database_is_caught(
    committed: Index, serve: Serve, tmp_path: Path
) -> None:
    foreign = f"sqlite:///{tmp_path / 'foreign.db'}"
    open_engine(foreign)
    reading = serve(committed, state_url=foreign).read(CANARY)
    assert reading.state is State.FALSE
    assert "was never committed" in reading.observed


def test_a_server_that_was_started_before_the_index_existed_is_caught(
    committed: Index, serve: Serve
) -> None:
    reading = serve(committed, name="another").read(CANARY)
    assert reading.state is State.FALSE
    assert "there is no index" in reading.observed


def test_a_server_that_asks_with_another_model_is_caught_at_the_tick(
    committed: Index, serve: Serve
) -> None:
    served = serve(committed, model="turned")
    reading = served.read(CANARY)
    assert reading.state is State.FALSE
    assert "chunks not found" in reading.observed
    assert reading.evidence
    assert served.read(KNOWN).state is State.FALSE


def test_a_server_that_hangs_or_is_gone_cannot_be_told_and_is_not_false(
    committed: Index, serve: Serve
) -> None:
    served = serve(committed)
    try:
        with View(served.index, committed=True) as view:
            assert look(view, [CANARY])[CANARY].state is State.TRUE
            served.process.send_signal(signal.SIGSTOP)
            assert look(view, [KNOWN])[KNOWN].state is State.CANNOT_TELL, "on an open connection"
        with View(served.index, committed=True) as view:
            readings = look(view, catalogue())
    finally:
        served.process.send_signal(signal.SIGCONT)
    through = {CANARY, KNOWN}
    assert {readings[signal_].state for signal_ in through} == {State.CANNOT_TELL}
    assert all("does not answer" in readings[signal_].observed for signal_ in through)
    assert {r.state for s, r in readings.items() if s not in through} == {State.TRUE}
    assert served.read(CANARY).state is State.TRUE, "and it goes on"
    served.process.kill()
    served.process.wait()
    assert served.read(CANARY).state is State.CANNOT_TELL


def test_a_commit_between_two_looks_is_no_false_alarm(
    committed: Index, serve: Serve, source: MemorySource
) -> None:
    served = serve(committed)
    with View(served.index, committed=True) as view:
        before = view.snapshot.sequence
        source.texts = {f"e{n}.md": document(f"New{n}", f"n{n}") for n in range(3)}
        run_sync(committed, accept_deletions=True)
        assert commit(committed).sequence == before + 1
        assert look(view, [CANARY])[CANARY].state is not State.FALSE
    assert served.read(CANARY).state is State.TRUE


def test_a_lost_vector_is_found_missing_and_equal_texts_are_no_fault(
    index: Index, serve: Serve, store: WeaviateStore, source: MemorySource
) -> None:
    source.texts = {f"same{n}.md": section("same") for n in range(60)}
    run_sync(index)
    source.texts["last.md"] = section("last")
    run_sync(index)
    commit(index)
    served = serve(index)
    assert served.read(KNOWN).state is State.TRUE, "which of sixty equals comes is by chance"
    (id_,) = (i for i, s in stored_in(index).items() if s.chunk.document_id == "last.md")
    elsewhere = HashEmbedder().vector("something else").tolist()
    raw(store).collections.use(collection_of(index)).data.update(uuid=id_, vector=elsewhere)
    reading = served.read(KNOWN)
    assert reading.state is State.FALSE
    (miss,) = reading.evidence
    assert (miss["chunk"], miss["document"]) == (id_, "last.md")
    assert served.read(CANARY).state is State.TRUE, "the path is well; one chunk is not"


def test_a_deleted_chunk_that_came_back_is_seen(
    committed: Index, serve: Serve, store: WeaviateStore, source: MemorySource
) -> None:
    served = serve(committed)
    before = stored_in(committed)
    del source.texts["d0.md"]
    run_sync(committed)
    commit(committed)
    assert served.read(DELETED).state is State.TRUE
    back = next(s for s in before.values() if s.chunk.document_id == "d0.md")
    assert back.vector is not None
    store.write(collection_of(committed), [back.chunk], back.vector[None, :], back.fingerprint)
    reading = served.read(DELETED)
    assert reading.state is State.FALSE
    assert reading.evidence == [{"chunk": back.chunk.id, "document": "d0.md"}]


def test_results_say_what_is_not_true_as_soon_as_somebody_has_seen_it(
    committed: Index, serve: Serve, store: WeaviateStore
) -> None:
    served = serve(committed)
    assert_healthy(served.index)
    clean = served.call("search", query="one1")
    assert clean.structured["not_true"] == []  # type: ignore[index]
    assert clean.structured["checked_seconds_ago"] < 60  # type: ignore[index]

    raw(store).collections.use(collection_of(committed)).data.delete_by_id(
        min(stored_in(committed))
    )
    with View(served.index, committed=True) as view:
        evaluate(view, tick())
    found = served.call("search", query="one1")
    assert not found.is_error
    (doubt,) = found.structured["not_true"]  # type: ignore[index]
    assert (doubt["signal"], doubt["state"]) == ("counts_match", "false")
    assert "11 objects" in doubt["reason"]
    id_ = found.structured["hits"][0]["chunk_id"]  # type: ignore[index]
    fetched = served.call("fetch", chunk_id=id_)
    assert fetched.structured["not_true"] == [doubt]  # type: ignore[index]


def test_a_blocked_index_is_refused_with_the_reason_and_read_again_once_it_is_true(
    committed: Index, serve: Serve, store: WeaviateStore
) -> None:
    served = serve(committed, when_false="block")
    record(committed.engine, committed.name, {KNOWN: Reading(State.CANNOT_TELL, "down", "")})
    assert not served.call("search", query="one1").is_error, "what cannot be told never blocks"
    raw(store).collections.use(collection_of(committed)).data.delete_by_id(
        min(stored_in(committed))
    )
    with View(served.index, committed=True) as view:
        evaluate(view, tick())
    for refused in (
        served.call("search", query="one1"),
        served.call("fetch", chunk_id=max(stored_in(committed))),
    ):
        assert refused.is_error
        assert "is blocked: counts_match is false since 20" in refused.text
        assert "11 objects" in refused.text
        assert "The next sync compares everything" in refused.text, "what to do"
        assert refused.structured["kind"] == "blocked"  # type: ignore[index]
        assert "one1" not in json.dumps(refused.structured), "and nothing of what it holds"

    # The probes see through it, or a path that is itself what blocks could never be seen mended.
    record(committed.engine, committed.name, {CANARY: Reading(State.FALSE, "snapshot 9", "")})
    assert served.read(CANARY).state is State.TRUE
    assert served.read(KNOWN).state is State.FALSE, "of the chunk that is gone"
    run_sync(served.index, verify=True)
    commit(served.index)
    assert set(states(served.index).values()) == {State.TRUE}
    assert not served.call("search", query="one1").is_error


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    with WeaviateResource(**given["weaviate"]).connect() as opened:
        searcher = CheckedSearcher(
            {
                given["index"]: make_index(
                    given["index"],
                    MemorySource(),
                    opened,
                    open_engine(given["state"]),
                    embedder=MODELS[given["model"]](),
                    when_false=given["when_false"],
                )
            }
        )
        asyncio.run(
            shell.serve(
                search.build_server(searcher),
                ready=search.readiness(searcher),
                options=shell.Options.from_environment(port=given["port"]),
            )
        )
