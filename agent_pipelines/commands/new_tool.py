"""`tools new`: a tool server of one's own and its test, as two files that work as written.

Belongs here: the two files. Does not belong here: serving them (`tools.py`).
"""

import ast
import doctest
import importlib
import inspect
import json
import keyword
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from agent_pipelines.errors import UserError


def write(folder: Path, name: str, function: str | None) -> Sequence[str]:
    """Write NAME.py and test_NAME.py; what to do next, line by line.

    ``function`` as in ``module:function``; without one the tool is an example to be replaced.

    Raises:
        UserError: a file is there already, or no tool can be made of that name or function.
    """
    reserved = keyword.iskeyword(name) or name in sys.stdlib_module_names
    if not name.isidentifier() or name != name.lower() or reserved:
        raise UserError(
            f"{name!r} cannot be the name of a tool server's file",
            remedy="use lower-case letters, digits and underscores, and no name that Python uses",
        )
    server, test = folder / f"{name}.py", folder / f"test_{name}.py"
    for file in (server, test):
        if file.exists():
            raise UserError(
                f"{file} exists, and nothing is ever overwritten",
                remedy="use another name, or move that file away",
            )
    source = _read(folder, function) if function else None
    values = {"name": name}
    if source is None:
        values["summary"] = "Say in a line what it offers."
        texts = _SERVER + _OPENING, _TEST + _EXAMPLE_TESTS
    else:
        values |= source.values
        texts = _SERVER_OF_FUNCTION + _OPENING, _TEST + source.tests
    for file, text in zip((server, test), texts, strict=True):
        with file.open("x") as opened:
            opened.write(Template(text).substitute(values))
    change = "its hints, which must be true" if source else "the tool and what it returns"
    return (
        f"wrote {server.name} and {test.name}",
        f"  1. change {change}, in {server.name}",
        f"  2. python -m pytest {test.name}",
        f"  3. agent-pipelines tools {server.name} --port 8000",
    )


@dataclass(frozen=True)
class _Source:
    """What the two files need to know of a function."""

    values: dict[str, str]
    tests: str


def _read(folder: Path, path: str) -> _Source:
    module_name, _, name = path.partition(":")
    if not module_name or not name.isidentifier():
        raise UserError(
            f"--from {path} names no function",
            remedy="give module and function, as in --from my_package.texts:count_words",
        )
    function = _function(folder, module_name, name)
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UserError(
                f"{path} takes *{parameter.name}, which no schema can describe",
                remedy="write a function with named parameters around it",
            )
        if parameter.annotation is parameter.empty:
            raise _unannotated(path, f"parameter {parameter.name!r}")
    if signature.return_annotation is signature.empty:
        raise _unannotated(path, "what it returns")
    if not inspect.getdoc(function):
        raise UserError(
            f"{path} has no docstring", remedy="write one: it tells a model what the tool is for"
        )
    _check_schema(path, function)
    required = any(p.default is p.empty for p in signature.parameters.values())
    example = _example(function, signature)
    values = {
        "module": module_name,
        "function": name,
        "summary": f"`{name}` of `{module_name}`.",
    }
    if example is not None:
        values |= {"arguments": _literal(example[0]), "answer": _literal(example[1])}
    return _Source(
        values,
        _FUNCTION_TESTS
        + (_UNANSWERED_TEST if example is None else _ANSWERED_TEST)
        + (_REFUSED_TEST if required else ""),
    )


def _function(folder: Path, module_name: str, name: str) -> Callable[..., Any]:
    # As the server will find it, which stands in this folder.
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(
            f"--from {module_name}:{name}: {module_name} cannot be imported: "
            f"{type(error).__name__}: {error}",
            remedy=f"name a module that can be imported in {folder}",
        ) from error
    function = getattr(module, name, None)
    if not inspect.isfunction(function):
        raise UserError(
            f"{module_name} has no function {name!r}",
            remedy="name a function of that module, as in --from my_package.texts:count_words",
        )
    return function


def _unannotated(path: str, what: str) -> UserError:
    return UserError(
        f"{path} does not say the type of {what}",
        remedy="annotate it: the tool's schemas are made of it",
    )


def _check_schema(path: str, function: Callable[..., Any]) -> None:
    from mcp.server.mcpserver.tools import Tool

    try:
        Tool.from_function(function, structured_output=True)
    except Exception as error:  # pydantic's and the SDK's, of many kinds
        raise UserError(
            f"no tool can be made of {path}: {error}",
            remedy="use types that have a JSON schema: numbers, strings, lists, dicts, dataclasses "
            "and pydantic models",
        ) from error


def _example(
    function: Callable[..., Any], signature: inspect.Signature
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Arguments and result of the first call in the docstring, if it is plain (`>>> f(1)`)."""
    for example in doctest.DocTestParser().get_examples(inspect.getdoc(function) or ""):
        try:
            call = ast.parse(example.source.strip(), mode="eval").body
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                continue
            if call.func.id != function.__name__:
                continue
            bound = signature.bind(
                *(ast.literal_eval(value) for value in call.args),
                **{word.arg or "": ast.literal_eval(word.value) for word in call.keywords},
            )
            answer = ast.literal_eval(example.want.strip())
        except (SyntaxError, TypeError, ValueError):
            continue
        # As the SDK wraps what is no object of JSON.
        return dict(bound.arguments), answer if isinstance(answer, dict) else {"result": answer}
    return None


def _literal(value: Any) -> str:
    """As `repr`, with the quotes that formatters want."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(k)}: {_literal(v)}' for k, v in value.items())}}}"
    return repr(value)


_SERVER = '''\
"""The tool server `$name`: say here what it offers.

Serve it with `agent-pipelines tools $name.py --port 8000`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from agent_pipelines.toolservers.server import Opened, ToolServer
from mcp.server import MCPServer
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field


class Counted(BaseModel):
    """What the tool returns. Clients are told its schema, and every result follows it."""

    words: int = Field(description="How many words the text has.")


def build_server() -> MCPServer:
    """The server and its tools."""
    server = MCPServer(
        "$name", instructions="Say here when to use these tools.", log_level="WARNING"
    )

    # By these hints clients decide what may run unasked or be tried again: be truthful.
    @server.tool(
        annotations=ToolAnnotations(
            read_only_hint=True,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=False,
        )
    )
    def $name(
        text: Annotated[str, Field(description="The text to count in.")],
    ) -> Counted:
        """Count the words of a text."""
        return Counted(words=len(text.split()))

    return server
'''

_SERVER_OF_FUNCTION = '''\
"""The tool server `$name`: `$function` of `$module`, as a tool.

Serve it with `agent-pipelines tools $name.py --port 8000`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from agent_pipelines.toolservers.server import Opened, ToolServer
from mcp.server import MCPServer
from mcp.types import ToolAnnotations

from $module import $function


def build_server() -> MCPServer:
    """The server and its tools."""
    server = MCPServer(
        "$name", instructions="Say here when to use these tools.", log_level="WARNING"
    )
    server.add_tool(
        $function,
        # By these hints clients decide what may run unasked or be tried again. As written
        # they promise nothing: say what is true of the function.
        annotations=ToolAnnotations(
            read_only_hint=False,
            destructive_hint=True,
            idempotent_hint=False,
            open_world_hint=True,
        ),
        structured_output=True,
    )
    return server
'''

_OPENING = '''

async def ready() -> str | None:
    """None when what the tools depend on answers, else why not; `/ready` says so."""
    return None


@contextmanager
def open_server() -> Iterator[Opened]:
    """Open here what the tools need (a client, a pool); it is closed when the server ends."""
    yield Opened(build_server(), ready)


TOOL_SERVER = ToolServer("$name", "$summary", open_server)
'''

_TEST = '''\
"""The tool server `$name`, started for real and called over HTTP."""

import asyncio
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.types import CallToolResult, Tool

SERVER = Path(__file__).with_name("$name.py")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The server, from when it is ready until the last test has ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "agent_pipelines.cli", "tools", str(SERVER)]
    process = subprocess.Popen([*command, "--port", str(port)])
    try:
        deadline = time.monotonic() + 60
        while not is_ready(f"http://127.0.0.1:{port}/ready"):
            assert process.poll() is None, "it ended instead of starting; see above"
            assert time.monotonic() < deadline, "it was not ready within a minute"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(timeout=60)


def is_ready(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def tools(url: str) -> dict[str, Tool]:
    async def ask() -> dict[str, Tool]:
        async with Client(url) as client:
            return {tool.name: tool for tool in (await client.list_tools()).tools}

    return asyncio.run(ask())


def call(url: str, tool: str, arguments: dict[str, Any]) -> CallToolResult:
    async def ask() -> CallToolResult:
        async with Client(url) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(ask())
'''

_EXAMPLE_TESTS = """

def test_it_says_what_it_offers(url: str) -> None:
    tool = tools(url)["$name"]
    assert tool.description == "Count the words of a text."
    assert tool.annotations is not None and tool.annotations.read_only_hint
    assert tool.output_schema is not None
    assert "words" in tool.output_schema["properties"]


def test_it_answers(url: str) -> None:
    result = call(url, "$name", {"text": "one two three"})
    assert not result.is_error
    assert result.structured_content == {"words": 3}


def test_arguments_that_make_no_sense_are_refused(url: str) -> None:
    assert call(url, "$name", {"text": ["no", "text"]}).is_error
"""

_FUNCTION_TESTS = """

def test_it_says_what_it_offers(url: str) -> None:
    tool = tools(url)["$function"]
    assert tool.description
    assert tool.annotations is not None
    assert tool.output_schema is not None
"""

_ANSWERED_TEST = """

def test_it_answers_as_its_docstring_says(url: str) -> None:
    result = call(url, "$function", $arguments)
    assert not result.is_error
    assert result.structured_content == $answer
"""

_UNANSWERED_TEST = """

@pytest.mark.skip(reason="write here what to call it with, and what it answers")
def test_it_answers(url: str) -> None:
    result = call(url, "$function", {})
    assert not result.is_error
    assert result.structured_content == {}
"""

# Not by a made-up value: the function must not be reached, for nobody knows what it does.
_REFUSED_TEST = """

def test_a_call_without_its_arguments_is_refused(url: str) -> None:
    assert call(url, "$function", {}).is_error
"""
