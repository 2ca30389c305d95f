"""The search tool server over real MCP and HTTP: a process of its own, a searcher in memory.

Run as a program it is that process.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from agent_pipelines.agents.tools import ToolSession, ToolTransportError
from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.indexing.search import Doubt, Hit, SearchResult
from agent_pipelines.indexing.store import Filter
from agent_pipelines.toolservers import search, shell
from agent_pipelines.toolservers.outcome import OUTAGE
from resources.tools import ToolServerResource
from tests.loopback import free_port
from tests.processes import until

T = TypeVar("T")


_DOUBT = Doubt("fresh", "cannot tell", None, "never evaluated")


class MemorySearcher:
    """One index of three chunks; words of the query make it slow, down or broken."""

    def __init__(self, down: Path) -> None:
        self._down = down
        self._running = 0
        self._peak = 0
        self._lock = threading.Lock()

    def indexes(self) -> Sequence[str]:
        return ["new", "runbooks"]

    def _check(self, index: str) -> None:
        if index not in self.indexes():
            raise UserError(f"there is no index {index!r}", remedy="use one of: new, runbooks")
        if index == "new":
            raise UserError("index 'new' was never committed", remedy="sync it")
        if self._down.exists():
            raise UnavailableError("Weaviate does not answer", remedy="start it")

    def search(
        self,
        index: str,
        query: str,
        *,
        limit: int,
        filters: Sequence[Filter] = (),
        alpha: float = 0.5,
    ) -> SearchResult:
        self._check(index)
        if query == "bug":
            raise RuntimeError("secret detail")
        with self._lock:
            self._running += 1
            self._peak = max(self._peak, self._running)
        time.sleep(0.5 if query == "slow" else 0)
        with self._lock:
            self._running -= 1
        moment = datetime(2026, 11, 1, tzinfo=UTC)
        hits = [] if query == "nothing" else [self._hit(n) for n in range(min(limit, 3))]
        if query == "peak":
            hits = [self._hit(0, text=str(self._peak))]
        return SearchResult(index, 7, moment, 12.5, 3.0, hits, [_DOUBT])

    def fetch(self, index: str, chunk_id: str) -> SearchResult:
        self._check(index)
        moment = datetime(2026, 11, 1, tzinfo=UTC)
        hits = [self._hit(1)] if chunk_id == "chunk-1" else []
        return SearchResult(index, 7, moment, 12.5, 3.0, hits, [_DOUBT])

    def _hit(self, number: int, text: str = "restart the pod") -> Hit:
        return Hit(
            chunk_id=f"chunk-{number}",
            document_id=f"doc-{number}",
            content_hash="ab" * 32,
            position=number,
            title=f"Runbook {number}",
            uri=f"file:///{number}.md",
            text=text,
            metadata={"team": "storage"},
            score=1.0 / (number + 1),
        )


class Server:
    """The process, its addresses and the file that takes its dependency down."""

    def __init__(self, folder: Path) -> None:
        self.down = folder / "down"
        self.port, self.probes_port = free_port(), free_port()
        self.start()

    def start(self) -> None:
        argv = [
            sys.executable,
            __file__,
            str(self.port),
            str(self.probes_port),
            str(self.down),
        ]
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(argv, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})

        def up() -> bool:
            assert self.process.poll() is None
            try:
                return self.get("/health").status_code == 200
            except httpx2.TransportError:
                return False

        until(up, 60, "the server")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def get(self, path: str, *, port: int | None = None, **more: Any) -> httpx2.Response:
        return httpx2.get(f"http://127.0.0.1:{port or self.port}{path}", timeout=10, **more)

    def metric(self, name: str, tool: str, *, port: int | None = None) -> float:
        text = self.get("/metrics", port=port).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and sample.labels.get("tool_name") == tool
        )


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("search")) as started:
        yield started


def within(
    url: str, use: Callable[[ToolSession], Awaitable[T]], *, call_timeout: float = 10.0
) -> T:
    """What ``use`` returns, inside one session."""

    async def main() -> T:
        resource = ToolServerResource(url=url, call_timeout_seconds=call_timeout)
        async with resource.session() as session:
            return await use(session)

    return asyncio.run(main())


def test_tools_say_that_they_only_read_and_what_they_return(server: Server) -> None:
    answer = httpx2.post(
        server.url,
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
        headers={"accept": "application/json, text/event-stream"},
    ).json()
    tools = {tool["name"]: tool for tool in answer["result"]["tools"]}
    assert set(tools) == {"search", "fetch", "list_indexes"}
    for tool in tools.values():
        assert tool["annotations"] == {
            "readOnlyHint": True,
            "destructiveHint": False,
            "idempotentHint": True,
            "openWorldHint": False,
        }
        assert tool["outputSchema"]["type"] == "object"
    listed = within(server.url, lambda session: session.list_tools())
    assert all(tool.repeatable for tool in listed)


def test_a_hit_carries_what_a_citation_needs(server: Server) -> None:
    arguments = {"index": "runbooks", "query": "pod", "limit": 2}

    async def both(session: ToolSession) -> Any:
        return await session.call("search", arguments), await session.call(
            "fetch", {"index": "runbooks", "chunk_id": "chunk-1"}
        )

    found, fetched = within(server.url, both)
    assert not found.is_error
    assert found.structured["index"] == "runbooks"
    assert found.structured["sequence"] == 7
    assert datetime.fromisoformat(found.structured["committed_at"]) == datetime(
        2026, 11, 1, tzinfo=UTC
    )
    assert found.structured["staleness_seconds"] == 12.5
    for result in (found, fetched):
        assert result.structured["checked_seconds_ago"] == 3.0
        assert result.structured["not_true"] == [
            {"signal": "fresh", "state": "cannot tell", "since": None, "reason": "never evaluated"}
        ]
    assert [hit["chunk_id"] for hit in found.structured["hits"]] == [
        "chunk-0",
        "chunk-1",
    ]
    assert set(found.structured["hits"][0]) == {
        "chunk_id",
        "document_id",
        "content_hash",
        "uri",
        "title",
        "metadata",
        "text",
        "score",
    }
    assert fetched.structured["hit"] == found.structured["hits"][1]
    Draft202012Validator(search.Found.model_json_schema()).validate(found.structured)


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("search", {"index": "runbook", "query": "x"}, "use one of: new, runbooks"),
        (
            "search",
            {"index": "runbooks", "query": "x", "limit": 0},
            "greater than or equal to 1",
        ),
        (
            "search",
            {"index": "runbooks", "query": "x", "limit": 51},
            "less than or equal to 50",
        ),
        ("search", {"index": "runbooks", "query": ""}, "at least 1 character"),
        ("search", {"index": "runbooks"}, "query"),
        ("search", {"index": "runbooks", "query": "x", "by": "luck"}, "words and meaning"),
        ("fetch", {"index": "runbooks", "chunk_id": "gone"}, "Search again"),
        ("sarch", {"index": "runbooks", "query": "x"}, "sarch"),
    ],
)
def test_an_error_tells_the_model_what_to_do_next(
    server: Server, tool: str, arguments: dict[str, Any], said: str
) -> None:
    result = within(server.url, lambda session: session.call(tool, arguments))
    assert result.is_error
    assert said in result.text


def test_a_bug_in_the_server_shows_no_details(server: Server) -> None:
    arguments = {"index": "runbooks", "query": "bug"}
    result = within(server.url, lambda session: session.call("search", arguments))
    assert result.is_error
    assert "secret" not in result.text


def test_an_outage_behind_it_is_said_and_not_shown_as_an_empty_result(
    server: Server,
) -> None:
    assert server.get("/ready").status_code == 200
    server.down.touch()
    try:
        ready = server.get("/ready")
        assert ready.status_code == 503
        assert "Weaviate does not answer" in ready.text
        assert server.get("/health").status_code == 200
        arguments = {"index": "runbooks", "query": "x"}
        result = within(server.url, lambda session: session.call("search", arguments))
        assert result.is_error
        assert "Unavailable: Weaviate does not answer" in result.text
        assert result.structured == {"kind": "unavailable", "withheld": None}
        params = {"name": "search", "arguments": arguments}
        raw = httpx2.post(
            server.url,
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
            headers={"accept": "application/json, text/event-stream"},
        )
        assert raw.json()["result"]["_meta"][OUTAGE] == "index", "for a breaker to see"
    finally:
        server.down.unlink()
    assert server.get("/ready").status_code == 200


def test_every_call_is_counted_on_both_ports(server: Server) -> None:
    before = {
        name: server.metric(f"mcp_tool_call{name}", "search")
        for name in ("_total", "_errors_total", "_duration_seconds_count")
    }
    unknown = server.metric("mcp_tool_call_errors_total", "unknown")

    async def use(session: ToolSession) -> None:
        await session.call("search", {"index": "runbooks", "query": "x"})
        await session.call("search", {"index": "nowhere", "query": "x"})
        await session.call("search", {"index": "runbooks", "query": "x", "limit": 51})
        await session.call("search", {"index": "runbooks", "query": "bug"})
        await session.call("made-up-by-the-caller", {})

    within(server.url, use)
    for port in (server.port, server.probes_port):
        assert server.metric("mcp_tool_call_total", "search", port=port) == before["_total"] + 4
        assert (
            server.metric("mcp_tool_call_errors_total", "search", port=port)
            == before["_errors_total"] + 3
        )
        assert (
            server.metric("mcp_tool_call_duration_seconds_count", "search", port=port)
            == before["_duration_seconds_count"] + 4
        )
    assert server.metric("mcp_tool_call_errors_total", "unknown") == unknown + 1
    assert "made-up" not in server.get("/metrics").text


def test_the_probes_port_serves_no_tools(server: Server) -> None:
    assert server.get("/health", port=server.probes_port).status_code == 200
    assert server.get("/ready", port=server.probes_port).status_code == 200
    assert server.get("/mcp", port=server.probes_port).status_code == 404


def test_a_foreign_host_header_is_refused(server: Server) -> None:
    assert server.get("/mcp", headers={"host": "evil.example"}).status_code == 421


def test_one_session_carries_many_calls_at_once(server: Server) -> None:
    async def use(session: ToolSession) -> Any:
        slow = {"index": "runbooks", "query": "slow"}
        await asyncio.gather(*(session.call("search", slow) for _ in range(40)))
        return await session.call("search", {"index": "runbooks", "query": "peak"})

    started = time.monotonic()
    peak = int(within(server.url, use).structured["hits"][0]["text"])
    # 40 calls of 0.5 s, 16 at once: three rounds.
    assert 1.4 < time.monotonic() - started < 10
    assert 8 < peak <= 16


def test_a_call_that_takes_too_long_is_a_transport_failure(server: Server) -> None:
    async def use(session: ToolSession) -> str:
        with pytest.raises(ToolTransportError):
            await session.call("search", {"index": "runbooks", "query": "slow"})
        return (await session.call("search", {"index": "runbooks", "query": "x"})).text

    # The session outlives it.
    assert "chunk-0" in within(server.url, use, call_timeout=0.3)


def test_a_killed_server_is_a_transport_failure_in_bounded_time(tmp_path: Path) -> None:
    with running(tmp_path) as server:

        async def use(session: ToolSession) -> list[Any]:
            await session.call("list_indexes", {})
            slow = {"index": "runbooks", "query": "slow"}
            flying = [asyncio.create_task(session.call("search", slow)) for _ in range(4)]
            await asyncio.sleep(0.2)
            server.process.kill()
            started = time.monotonic()
            cut_off = await asyncio.gather(*flying, return_exceptions=True)
            after = await asyncio.gather(
                *(session.call("search", slow) for _ in range(4)),
                return_exceptions=True,
            )
            assert time.monotonic() - started < 8
            return [*cut_off, *after]

        failures = within(server.url, use)
        assert len(failures) == 8
        assert all(isinstance(failure, ToolTransportError) for failure in failures)


def test_a_session_outlives_a_restart_of_its_server(tmp_path: Path) -> None:
    with running(tmp_path) as first:

        async def use(session: ToolSession) -> None:
            arguments = {"index": "runbooks", "query": "x"}
            assert not (await session.call("search", arguments)).is_error
            first.process.kill()
            first.process.wait()
            with pytest.raises(ToolTransportError):
                await session.call("search", arguments)
            await asyncio.to_thread(first.start)
            assert not (await session.call("search", arguments)).is_error

        within(first.url, use)


def test_no_server_at_all_is_a_transport_failure(tmp_path: Path) -> None:
    async def use(session: ToolSession) -> None:
        pytest.fail("there is no session")

    with pytest.raises(ToolTransportError, match="ConnectError"):
        within(f"http://127.0.0.1:{free_port()}/mcp", use)


def test_sigterm_lets_calls_in_flight_finish(tmp_path: Path) -> None:
    with running(tmp_path) as server:

        async def use(session: ToolSession) -> Any:
            await session.call("list_indexes", {})
            arguments = {"index": "runbooks", "query": "slow"}
            flying = asyncio.create_task(session.call("search", arguments))
            await asyncio.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            return await flying

        assert not within(server.url, use).is_error
        assert server.process.wait(timeout=10) in (0, -signal.SIGTERM)


if __name__ == "__main__":
    searcher = MemorySearcher(Path(sys.argv[3]))
    asyncio.run(
        shell.serve(
            search.build_server(searcher),
            ready=search.readiness(searcher),
            options=shell.Options.from_environment(
                port=int(sys.argv[1]), probes_port=int(sys.argv[2])
            ),
        )
    )
