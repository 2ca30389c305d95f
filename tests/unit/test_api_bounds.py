"""What many who ask at once, or a tool server that hangs, cost the others who use the API."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from sqlalchemy import Engine, event
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from agent_pipelines.agents.breaker import Breaker
from agent_pipelines.agents.guard import GuardedSession
from agent_pipelines.agents.model import Model
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tally import Tally
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import ToolInfo, ToolResult
from agent_pipelines.api import agents
from agent_pipelines.api.admission import Places
from agent_pipelines.api.agents import ServedAgent
from agent_pipelines.api.conversations import Conversations
from agent_pipelines.api.identity import Identity
from agent_pipelines.api.metrics import Metrics
from agent_pipelines.api.options import ApiOptions
from agent_pipelines.api.problems import Problem
from agent_pipelines.api.tools import Sessions
from agent_pipelines.state.engine import open_engine
from tests.loopback import LoopbackServer
from tests.processes import until


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_engine(f"sqlite:///{tmp_path / 'state.db'}")


@pytest.fixture
def statements(engine: Engine) -> Iterator[list[str]]:
    """All that are executed."""
    seen: list[str] = []

    def executed(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", executed)
    yield seen
    event.remove(engine, "before_cursor_execute", executed)


def served(sessions: Sessions, **more: Any) -> ServedAgent:
    spec = AgentSpec.model_validate({"name": "clerk", "instructions": "Answer.", **more})
    client = openai.AsyncOpenAI(base_url="http://127.0.0.1:1/v1", api_key="x")
    model = Model(client, "scripted")
    return ServedAgent(spec, description="", model=model, policy=None, sessions=sessions)


def conversations(engine: Engine, places: Places, lookups: Places) -> Conversations:
    metrics = Metrics(places, ["clerk"])
    return Conversations(engine=engine, places=places, lookups=lookups, metrics=metrics)


@asynccontextmanager
async def full(places: Places) -> AsyncIterator[None]:
    """The one place is taken, and somebody waits for it."""

    async def want() -> None:
        async with places.place("another", lambda: None):
            await asyncio.Event().wait()

    others = [asyncio.create_task(want()) for _ in range(2)]
    while not (places.held and places.waiting):
        await asyncio.sleep(0)
    yield
    for each in others:
        each.cancel()
    await asyncio.wait(others)


def test_who_finds_no_place_is_told_before_anything_is_looked_up(
    engine: Engine, statements: list[str]
) -> None:
    async def main() -> Problem | None:
        places = Places(1, 1)
        all_of_them = conversations(engine, places, Places(1, 1))
        async with full(places):
            task = Task("mine", {"question": "x"})
            asked = all_of_them.submit(served(Sessions({})), "me", task, new=False)
            await asyncio.wait({asked.work})
        return asked.problem

    told = asyncio.run(main())
    assert told is not None
    assert (told.status, told.headers.keys()) == (429, {"Retry-After"})
    assert statements == []


def test_so_many_tasks_are_looked_up_at_once(engine: Engine, statements: list[str]) -> None:
    async def main() -> None:
        lookups = Places(1, 1)
        all_of_them = conversations(engine, Places(1, 1), lookups)
        async with full(lookups):
            with pytest.raises(Problem) as told:
                await all_of_them.find("clerk", "me", "mine")
        assert (told.value.status, told.value.headers.keys()) == (429, {"Retry-After"})
        assert statements == []
        assert await all_of_them.find("clerk", "me", "mine") is None

    asyncio.run(main())


class HangsLater:
    """A tool server that lists its tools once, and then says nothing."""

    def __init__(self) -> None:
        self.listed = 0

    async def list_tools(self) -> Sequence[ToolInfo]:
        self.listed += 1
        if self.listed > 1:
            await asyncio.Event().wait()
        return [ToolInfo("read", "", {"type": "object"}, True, server="orders")]

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        raise NotImplementedError


def test_nobody_waits_for_tools_that_are_listed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "_LISTED_FOR", 0.0)
    server = HangsLater()

    @asynccontextmanager
    async def opening() -> AsyncIterator[GuardedSession]:
        yield GuardedSession(
            "orders", server, breaker=Breaker(), tally=Tally(), concurrency=1, seconds=60
        )

    async def main() -> None:
        async with Sessions({"orders": opening}) as sessions:
            agent = served(sessions, tools=("read",), tool_servers=("orders",))
            first = await agent.toolbox()
            async with asyncio.timeout(10):
                assert [await agent.toolbox() for _ in range(3)] == [first] * 3
                while server.listed < 2:
                    await asyncio.sleep(0.01)

    asyncio.run(main())
    assert server.listed == 2


class Gated(LoopbackServer):
    """Something behind the API's gate; two requests may arrive at once."""

    def routes(self) -> list[Route]:
        options = ApiOptions(max_concurrent=1, max_waiting=1)
        metrics = Metrics(Places(1, 1), [])
        return [Route("/tasks", Identity(PlainTextResponse("read"), options, metrics))]

    def post(self) -> httpx2.Response:
        return httpx2.post(f"http://127.0.0.1:{self.port}/tasks", content=b"all of it")

    def begin(self) -> socket.socket:
        """A request of which the first byte is sent, and then nothing."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(
            b"POST /tasks HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Length: 100\r\n\r\n{"
        )
        return connection


def test_so_many_requests_arrive_at_once() -> None:
    with Gated() as server:
        with ExitStack() as held:
            held.enter_context(closing(server.begin()))
            assert server.post().text == "read"
            held.enter_context(closing(server.begin()))

            def told() -> httpx2.Response | None:
                answer = server.post()
                return answer if answer.status_code == 429 else None

            refused = until(told, 10, "the second of them arrives")
            assert refused.headers["retry-after"]
            assert refused.json()["code"] == "busy"
        until(lambda: server.post().status_code == 200, 10, "their places are free again")
