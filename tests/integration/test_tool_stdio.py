"""`agent-pipelines tools --stdio`: other people's servers behind ours, the same to their callers.

What is compared is what the SDK's client gets with us in between and without us.
"""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp.types import (
    SERVER_INFO_META_KEY,
    CallToolResult,
    PromptReference,
    ResourceTemplateReference,
)
from pydantic import BaseModel

from agent_pipelines.toolservers.outcome import OUTAGE
from agent_pipelines.toolservers.stdio_child import Child, Command, Down, Slow
from agent_pipelines.toolservers.stdio_child import running as running_child
from tests import packages, processes
from tests.processes import until

T = TypeVar("T")

_SERVER = Path(__file__).parents[1] / "stdio_server.py"
_EVERYTHING = "2026.8.31"


@dataclass(frozen=True)
class Gateway:
    """A running `tools --stdio`, and how to reach its child without it."""

    url: str
    argv: Sequence[str]
    notes: Path
    command: processes.Command

    def ask(self, question: Callable[[Client], Awaitable[T]], mode: str = "auto") -> T:
        """What a client of ours gets."""
        return _ask(Client(f"{self.url}/mcp", mode=mode, cache=None), question)

    def ask_directly(self, question: Callable[[Client], Awaitable[T]], mode: str = "auto") -> T:
        """What a client of a child of its own gets."""
        child = StdioServerParameters(command=self.argv[0], args=list(self.argv[1:]))
        return _ask(Client(child, mode=mode, cache=None), question)

    def call(self, tool: str, **arguments: Any) -> CallToolResult:
        return self.ask(lambda client: client.call_tool(tool, arguments))

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(f"{self.url}{path}", trust_env=False)

    def counted(self) -> list[str]:
        """The calls of `count` that a child has begun, in all its lives."""
        notes = self.notes / "counted"
        return notes.read_text().splitlines() if notes.exists() else []


def _ask(client: Client, question: Callable[[Client], Awaitable[T]]) -> T:
    async def ask() -> T:
        async with client:
            return await question(client)

    return asyncio.run(ask())


@contextmanager
def gateway(
    notes: Path, argv: Sequence[str] | None = None, *options: str, **environment: str
) -> Iterator[Gateway]:
    argv = argv or [sys.executable, str(_SERVER), str(notes)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["tools", "--stdio", "--port", str(port), *options, "--", *argv]
    with processes.started(*arguments, state=notes / "state", **environment) as command:
        until(lambda: processes.listening(port) or not command.running(), 60, "a port that listens")
        assert command.running(), command.err
        yield Gateway(f"http://127.0.0.1:{port}", argv, notes, command)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all tests that leave it as it is."""
    with gateway(tmp_path_factory.mktemp("stdio")) as opened:
        yield opened


def plain(result: BaseModel) -> dict[str, Any]:
    """As it was on the wire, less the stamp that every server of the newer era leaves on it."""
    wire = result.model_dump(by_alias=True, mode="json", exclude_unset=True)
    meta = {k: v for k, v in (wire.pop("_meta", None) or {}).items() if k != SERVER_INFO_META_KEY}
    return wire | ({"_meta": meta} if meta else {})


async def described(client: Client) -> dict[str, Any]:
    """Everything that a server says it has."""
    offers = client.server_capabilities
    found = {
        "server": client.server_info,
        "instructions": client.instructions,
        "tools": (await client.list_tools()).tools if offers.tools else None,
        "prompts": (await client.list_prompts()).prompts if offers.prompts else None,
        "completions": offers.completions,
    }
    if offers.resources:
        found["resources"] = (await client.list_resources()).resources
        templates = await client.list_resource_templates()
        found["templates"] = templates.resource_templates
    return found


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_everything_it_has_is_described_the_same(shared: Gateway, mode: str) -> None:
    behind = shared.ask(described, mode)
    assert behind == shared.ask_directly(described, mode)
    assert len(behind["tools"]) == 12
    assert len(behind["resources"]) == 2


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_every_answer_is_the_same(shared: Gateway, mode: str) -> None:
    line = {"line": {"start": {"x": 1, "label": None}, "end": {"x": 2}}, "by": 0.5}

    async def use(client: Client) -> list[dict[str, Any]]:
        answers: list[BaseModel] = [
            await client.call_tool("move", line),
            await client.call_tool("everything", {}),
            await client.call_tool("fail", {"text": "no"}),
            await client.call_tool("move", {"line": "no line"}),
            await client.read_resource("notes://one"),
            await client.read_resource("notes://bytes"),
            await client.read_resource("notes://of/some"),
            await client.get_prompt("ask", {"what": "that"}),
            await client.complete(
                ResourceTemplateReference(type="ref/resource", uri="notes://of/{name}"),
                {"name": "name", "value": "x"},
            ),
            await client.complete(
                PromptReference(type="ref/prompt", name="ask"), {"name": "what", "value": "y"}
            ),
        ]
        return [plain(answer) for answer in answers]

    behind = shared.ask(use, mode)
    assert behind == shared.ask_directly(use, mode)
    assert [answer.get("isError") for answer in behind[:4]] == [False, False, True, True]


def test_its_errors_of_the_protocol_are_its_own(shared: Gateway) -> None:
    async def use(client: Client) -> list[tuple[int, str, Any]]:
        errors = []
        for asked in (client.read_resource("notes://none"), client.get_prompt("none")):
            with pytest.raises(MCPError) as raised:
                await asked
            errors.append((raised.value.code, raised.value.message, raised.value.error.data))
        return errors

    assert shared.ask(use) == shared.ask_directly(use)


def test_many_calls_are_in_the_one_child_together(shared: Gateway) -> None:
    async def use(client: Client) -> list[Any]:
        # None is answered before all of them are there.
        results = await asyncio.gather(
            *(client.call_tool("meet", {"number": 24}) for _ in range(24))
        )
        return [result.structured_content for result in results]

    assert sorted(answer["result"] for answer in shared.ask(use)) == list(range(24))


def test_metrics_name_its_tools_and_no_others(shared: Gateway) -> None:
    shared.call("pid")
    shared.call("made-up-by-the-caller")
    metrics = shared.get("/metrics").text
    assert re.search(r'mcp_tool_call_total\{tool_name="pid"\} [1-9]', metrics)
    assert 'tool_name="unknown"' in metrics
    assert "made-up" not in metrics


def test_it_is_ready_when_the_child_answers(shared: Gateway) -> None:
    assert shared.get("/ready").status_code == 200


def test_standard_error_of_the_child_is_in_our_log(shared: Gateway) -> None:
    name = Path(sys.executable).name
    shared.call("say", line="something went well")
    until(lambda: f"[{name}] something went well" in shared.command.err, 10, "the child's line")


def test_a_caller_that_hangs_up_stops_its_call(shared: Gateway) -> None:
    async def use(client: Client) -> None:
        call = asyncio.create_task(client.call_tool("wait", {"key": "http"}))
        await asyncio.to_thread(until, (shared.notes / "http.waiting").exists, 10, "the call")
        call.cancel()
        await asyncio.to_thread(until, (shared.notes / "http.cancelled").exists, 10, "its end")

    shared.ask(use)


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One whose command greets on standard output, and that is given variables."""
    notes = tmp_path_factory.mktemp("talkative")
    server = f"echo a secret greeting; exec {sys.executable} {_SERVER} {notes}"
    options = ("--env", "NAMED", "--env", "WRITTEN=three")
    with gateway(notes, ["sh", "-c", server], *options, NAMED="one", UNNAMED="two") as opened:
        yield opened


def test_what_is_no_message_is_passed_over_and_not_quoted(talkative: Gateway) -> None:
    assert not talkative.call("pid").is_error
    until(lambda: "no message" in talkative.command.err, 10, "a warning")
    assert "secret" not in talkative.command.err


def test_it_gets_only_those_variables_that_are_named(talkative: Gateway) -> None:
    async def use(client: Client) -> dict[str, Any]:
        names = ("NAMED", "WRITTEN", "UNNAMED", "PATH")
        answers = [await client.call_tool("variable", {"name": name}) for name in names]
        return {
            n: (a.structured_content or {})["result"] for n, a in zip(names, answers, strict=True)
        }

    assert talkative.ask(use) == {
        "NAMED": "one",
        "WRITTEN": "three",
        "UNNAMED": None,
        "PATH": os.environ["PATH"],
    }


def test_a_child_killed_under_load_costs_its_calls_in_flight_and_nothing_else(
    tmp_path: Path,
) -> None:
    with gateway(tmp_path) as opened:

        async def use(client: Client) -> list[CallToolResult]:
            async def call(number: int) -> CallToolResult:
                return await client.call_tool("count", {"key": str(number), "seconds": 0.05})

            async def kill() -> None:
                for _ in range(3):
                    await asyncio.sleep(0.5)
                    await asyncio.to_thread(_replaced, opened)

            results: list[CallToolResult] = []
            killing = asyncio.create_task(kill())
            while not killing.done():
                numbers = range(len(results), len(results) + 16)
                results += await asyncio.gather(*map(call, numbers))
            await killing
            return [*results, await call(len(results))]

        results = opened.ask(use)
        counted = opened.counted()
    failed = [number for number, result in enumerate(results) if result.is_error]
    # Three times, calls were in flight, and each of them says that the server is down.
    assert 3 <= len(failed) < len(results)
    assert all((results[number].meta or {}).get(OUTAGE) for number in failed)
    assert not results[-1].is_error
    # Never twice; and whoever was told that it was done, for them it was.
    assert len(counted) == len(set(counted))
    done = {str(number) for number, result in enumerate(results) if not result.is_error}
    assert done <= set(counted)


def test_a_call_in_flight_is_answered_before_the_child_ends(tmp_path: Path) -> None:
    with gateway(tmp_path) as opened:

        async def use(client: Client) -> CallToolResult:
            await client.list_tools()  # or it would ask for the result's schema afterwards
            call = asyncio.create_task(client.call_tool("count", {"key": "last", "seconds": 1}))
            await asyncio.to_thread(until, lambda: opened.counted() == ["last"], 10, "the call")
            opened.command.signal(signal.SIGTERM)
            return await call

        assert not opened.ask(use).is_error


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_of_it_outlives_us(tmp_path: Path, how: signal.Signals) -> None:
    with gateway(tmp_path) as opened:
        # A daemon: in a session of its own, and its parent is gone.
        left = psutil.Process((opened.call("daemon").structured_content or {})["result"])
        family = [*psutil.Process(opened.command.process.pid).children(recursive=True), left]
        assert len(family) >= 3
        opened.command.family.update(family)  # ended with the test, should they outlive us
        # Nor would it hear that its standard input is closed.
        _child(opened).suspend()
        opened.command.signal(how)
        until(lambda: not opened.command.running(), 30, "the end of the command")
        until(lambda: not any(map(_runs, family)), 10, f"the end of {family}")


def test_a_command_that_is_no_server_is_one_clear_error(tmp_path: Path) -> None:
    script = "import sys; sys.exit('no such database')"
    found = processes.cli(
        "tools", "--stdio", "--port", "1", "--", sys.executable, "-c", script, state=tmp_path
    )
    assert found.code == 2
    assert "does not answer as an MCP server" in found.err
    assert "no such database" in found.err
    assert "Traceback" not in found.err


# What follows needs no HTTP: the child as the gateway uses it.


def within(use: Callable[[Child], Awaitable[T]], notes: Path, call_seconds: float = 30) -> T:
    async def run() -> T:
        command = Command((sys.executable, str(_SERVER), str(notes)))
        async with running_child(command, call_seconds=call_seconds) as child:
            return await use(child)

    return asyncio.run(run())


async def called(child: Child, tool: str, **arguments: Any) -> Any:
    answer = await child.ask("tools/call", {"name": tool, "arguments": arguments})
    return answer["structuredContent"]["result"]


def test_a_child_that_hangs_is_an_outage_within_the_time_of_a_call(tmp_path: Path) -> None:
    async def use(child: Child) -> None:
        hung = psutil.Process(await called(child, "pid"))
        hung.suspend()
        # More than a pipe holds: even what cannot be written must not wait for longer.
        asked = [called(child, "fail", text="x" * 100_000) for _ in range(4)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(result) for result in results] == [Down] * 4
        # It is replaced after ten seconds without an answer.
        while True:
            try:
                assert await called(child, "pid") != hung.pid
                break
            except Down:
                await asyncio.sleep(0.2)
        assert not _runs(hung)

    within(use, tmp_path, call_seconds=1)


def test_a_slow_call_is_no_outage_and_is_told_to_stop(tmp_path: Path) -> None:
    async def use(child: Child) -> None:
        with pytest.raises(Slow):
            await called(child, "wait", key="slow")
        assert await child.ready() is None
        await asyncio.to_thread(until, (tmp_path / "slow.cancelled").exists, 10, "the end of it")

    within(use, tmp_path, call_seconds=1)


def test_a_caller_that_goes_away_stops_its_call(tmp_path: Path) -> None:
    async def use(child: Child) -> None:
        call = asyncio.create_task(called(child, "wait", key="gone"))
        await asyncio.to_thread(until, (tmp_path / "gone.waiting").exists, 10, "the call")
        call.cancel()
        await asyncio.to_thread(until, (tmp_path / "gone.cancelled").exists, 10, "the end of it")

    within(use, tmp_path)


def test_progress_is_passed_on(tmp_path: Path) -> None:
    async def use(child: Child) -> list[tuple[float, float | None, str | None]]:
        told = []

        async def tell(done: float, total: float | None, message: str | None) -> None:
            told.append((done, total, message))

        await child.ask("tools/call", {"name": "progress", "arguments": {}}, tell)
        return told

    assert within(use, tmp_path) == [(step, 3, f"step {step}") for step in range(3)]


def test_a_tool_it_learns_is_known_without_being_asked_for(tmp_path: Path) -> None:
    async def use(child: Child) -> None:
        assert "learned" not in child.tools
        await called(child, "learn")
        await asyncio.to_thread(until, lambda: "learned" in child.tools, 10, "the new tool")

    within(use, tmp_path)


# A server of somebody else's, in another language, of the older era only.


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The reference server of the protocol's authors, on Node."""
    folder = packages.from_npm("@modelcontextprotocol/server-everything", _EVERYTHING)
    argv = [str(packages.node()), str(folder / "dist" / "index.js"), "stdio"]
    with gateway(tmp_path_factory.mktemp("node"), argv) as opened:
        yield opened


def test_somebody_elses_server_is_described_the_same(everything: Gateway) -> None:
    behind = everything.ask(described, "legacy")
    directly = everything.ask_directly(described)
    assert behind == directly
    assert len(behind["tools"]) > 5


def test_somebody_elses_server_answers_the_same_to_either_era(everything: Gateway) -> None:
    async def use(client: Client) -> list[dict[str, Any]]:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        calls: dict[str, dict[str, Any]] = {
            "echo": {"message": "größer"},
            "get-sum": {"a": 2, "b": 3},
            "get-tiny-image": {},
            "get-annotated-message": {"messageType": "error", "includeImage": True},
            "get-structured-content": {"location": "Chicago"},
            "get-resource-links": {"count": 3},
        }
        assert calls.keys() <= tools
        answers: list[BaseModel] = [
            await client.call_tool(name, arguments) for name, arguments in calls.items()
        ]
        answers += [await client.get_prompt("simple-prompt")]
        answers += [
            await client.read_resource(str(resource.uri))
            for resource in (await client.list_resources()).resources[:3]
        ]
        return [plain(answer) for answer in answers]

    directly = everything.ask_directly(use)
    assert everything.ask(use, "legacy") == directly
    newer = everything.ask(use, "2026-07-28")
    # What the newer era adds says nothing of the answer.
    added = {"resultType", "ttlMs", "cacheScope"}
    assert [{k: v for k, v in a.items() if k not in added} for a in newer] == directly


def _replaced(opened: Gateway) -> None:
    """Kill the child, and wait for another one that answers."""
    child = _child(opened)
    child.kill()

    def another() -> bool:
        return opened.get("/ready").status_code == 200 and _child(opened) != child

    until(another, 30, "another child")


def _child(opened: Gateway) -> psutil.Process:
    """The server itself: the child of its guard."""
    [guard] = psutil.Process(opened.command.process.pid).children()
    [child] = [child for child in guard.children() if "sleep" not in child.name()]
    return child


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
