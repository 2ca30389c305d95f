"""A stdio MCP server with something of everything the protocol can carry, to be put behind ours.

Run as a program it is that server; its argument is a folder in which it notes what it did.
"""

import asyncio
import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import (
    AudioContent,
    CallToolResult,
    Completion,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
    ToolAnnotations,
)
from pydantic import BaseModel, Field

NOTES = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()

#: Every byte there is, which no text survives.
BYTES = bytes(range(256))

server = MCPServer(
    "odds-and-ends",
    title="Odds and ends",
    version="1.2.3",
    instructions="Use it for nothing but tests.",
    log_level="WARNING",
)


class Point(BaseModel):
    """Something structured, with something that is null."""

    x: float
    label: str | None = None
    parts: dict[str, int | None] = Field(default_factory=dict)


class Line(BaseModel):
    start: Point
    end: Point


@server.tool(
    title="Move a line",
    annotations=ToolAnnotations(
        title="Mover", read_only_hint=True, idempotent_hint=True, open_world_hint=False
    ),
    meta={"example.org/cost": 3},
)
def move(line: Line, by: Annotated[float, Field(ge=-10, le=10)] = 1.0) -> Line:
    """Nested schemas both ways, in words that are not ASCII: größer ≥ kleiner."""
    return Line(
        start=line.start.model_copy(update={"x": line.start.x + by, "parts": {"null": None}}),
        end=line.end.model_copy(update={"x": line.end.x + by}),
    )


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def everything() -> CallToolResult:
    """Every kind of content in one result."""
    encoded = base64.b64encode(BYTES).decode()
    return CallToolResult(
        content=[
            TextContent(type="text", text="tab\tnul\0 line\u2028", _meta={"example.org/a": 1}),
            ImageContent(type="image", data=encoded, mime_type="image/png"),
            AudioContent(type="audio", data=encoded, mime_type="audio/wav"),
            ResourceLink(type="resource_link", name="notes", uri="notes://one", size=3),
            EmbeddedResource(
                type="resource",
                resource=TextResourceContents(uri="notes://one", text="one", mime_type="text/x-n"),
            ),
        ],
        structured_content={"deep": [{"null": None, "big": 2**53, "small": 1e-9}], "empty": {}},
        _meta={"example.org/trace": {"id": "7"}},
    )


@server.tool()
def fail(text: str) -> CallToolResult:
    """An error that the tool gives deliberately."""
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


@server.tool()
async def count(key: str, seconds: float = 0.0) -> str:
    """Note that it was called, at once and for good, then take its time."""
    with (NOTES / "counted").open("a") as notes:
        notes.write(f"{key}\n")
    await asyncio.sleep(seconds)
    return key


@server.tool()
async def wait(key: str) -> str:
    """Never answer; note when somebody says to stop."""
    (NOTES / f"{key}.waiting").touch()
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        (NOTES / f"{key}.cancelled").touch()
        raise
    return key


_met: dict[int, asyncio.Barrier] = {}


@server.tool()
async def meet(number: int) -> int:
    """Answer once this many calls are here together."""
    barrier = _met.setdefault(number, asyncio.Barrier(number))
    return await barrier.wait()


@server.tool()
async def progress(ctx: Context[Any, Any]) -> str:
    """Report how far it is, then answer."""
    for step in range(3):
        await ctx.report_progress(step, 3, f"step {step}")
    return "done"


@server.tool()
def pid() -> int:
    """The process that answers."""
    return os.getpid()


@server.tool()
def daemon() -> int:
    """Leave a process behind, in a session of its own, whose parent is gone."""
    quiet = "stdin=s.DEVNULL, stdout=s.DEVNULL, stderr=s.DEVNULL, start_new_session=True"
    script = f"import subprocess as s; print(s.Popen(['sleep', '3600'], {quiet}).pid)"
    found = subprocess.run(
        [sys.executable, "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True
    )
    return int(found.stdout)


@server.tool()
def variable(name: str) -> str | None:
    """A variable of its environment."""
    return os.environ.get(name)


@server.tool()
def say(line: str) -> None:
    """Write a line on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@server.tool()
async def learn(ctx: Context[Any, Any]) -> str:
    """Have one tool more from now on."""

    def learned() -> str:
        """What was not there before."""
        return "learned"

    server.add_tool(learned)
    await ctx.notify_tools_changed()
    return "ok"


@server.resource("notes://one", mime_type="text/x-n", title="One")
def one() -> str:
    """A text."""
    return "one"


@server.resource("notes://bytes", mime_type="application/octet-stream")
def binary() -> bytes:
    """No text."""
    return BYTES


@server.resource("notes://of/{name}")
def of(name: str) -> str:
    """One of many."""
    return f"of {name}"


@server.prompt(title="Ask")
def ask(what: str) -> str:
    """A question."""
    return f"What is {what}?"


@server.completion()
async def complete(ref: Any, argument: Any, context: Any) -> Completion:
    """Names that fit."""
    return Completion(values=[f"{argument.value}-one", f"{argument.value}-two"], total=2)


if __name__ == "__main__":
    server.run("stdio")
