"""`agent-pipelines tools`: how its arguments are read, what it finds, and what `new` refuses."""

import sys
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent_pipelines.cli import app
from agent_pipelines.commands import new_tool
from agent_pipelines.commands import tools as command
from agent_pipelines.errors import UserError
from agent_pipelines.toolservers import catalogue
from agent_pipelines.toolservers.shell import Options

_SERVER = """
from contextlib import nullcontext
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from mcp.server import MCPServer
from agent_pipelines.toolservers.server import Opened, ToolServer
from beside import SUMMARY


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TOOLS_MINE_")
    url: str = Field(description="Where it is.")
    rows: int = Field(default=5, description="How many.")


async def ready() -> str | None:
    return None


TOOL_SERVER = ToolServer("mine", SUMMARY, lambda: nullcontext(Opened(MCPServer("mine"), ready)))
"""

_FUNCTIONS = '''
def untyped(text) -> str:
    """It says nothing of its parameter."""
    return text


def unspoken(text: str) -> str:
    return text
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, with a server, and with functions to make tools of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine.py").write_text(_SERVER)
    (tmp_path / "beside.py").write_text('SUMMARY = "Something of mine."')
    (tmp_path / "functions.py").write_text(_FUNCTIONS)
    monkeypatch.delitem(sys.modules, "functions", raising=False)
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    return tmp_path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What would be served, instead of serving it."""
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(command, "serve_named", lambda *a: seen.append((*a[:-1], a[-1].port)))
    monkeypatch.setattr(command, "serve_stdio", lambda *a: seen.append((*a[:-1], a[-1].port)))
    return seen


def tools(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["tools", *arguments], catch_exceptions=True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mine.py", "--port", "8000"], ("mine.py", 8000)),
        (["--stdio", "--port", "1", "--", "npx", "-y", "x"], (["npx", "-y", "x"], [], 1)),
        (["--stdio", "--port", "1", "npx", "-y", "x"], (["npx", "-y", "x"], [], 1)),
        (["--port", "1", "--stdio", "npx", "--port", "2"], (["npx", "--port", "2"], [], 1)),
        (["--stdio", "--port", "1", "--", "x", "--stdio"], (["x", "--stdio"], [], 1)),
        (["--stdio", "--port", "1", "--", "a b", "", "*"], (["a b", "", "*"], [], 1)),
        (["--stdio", "--env", "A", "--env", "B=1", "--port", "1", "x"], (["x"], ["A", "B=1"], 1)),
    ],
)
def test_arguments_mean_what_they_look_like(
    here: Path, served: list[tuple[object, ...]], arguments: list[str], expected: object
) -> None:
    result = tools(*arguments)
    assert result.exit_code == 0, result.output
    assert served == [expected]


def test_help_says_which_servers_there_are_and_how_to_serve_others() -> None:
    said = tools("--help").output
    for name in [*catalogue.shipped(), "search", "new", "--stdio"]:
        assert name in said
    # And what all of them read.
    own = {"host", "port", "probes_port", "tls"}
    every = {field.name for field in fields(Options)} - own | {"tls_cert", "tls_key"}
    assert {name for name in every if f"TOOLS_{name.upper()}" not in said} == set()


def test_help_of_a_server_says_which_variables_it_reads(here: Path) -> None:
    said = tools("mine.py", "--help").output
    assert "Something of mine." in said
    assert "TOOLS_MINE_URL (needed): Where it is." in said
    assert "TOOLS_MINE_ROWS: How many. Default: 5." in said


def test_a_shipped_server_goes_by_the_name_of_its_module() -> None:
    assert {name: catalogue.find(name).name for name in catalogue.shipped()} == {
        name: name for name in catalogue.shipped()
    }


def test_a_server_of_ones_own_is_found_by_file_and_by_module(here: Path) -> None:
    package = here / "package"
    package.mkdir()
    (package / "mine.py").write_text(_SERVER)
    for name in ("mine.py", "./mine.py", str(here / "mine.py"), "package.mine"):
        assert catalogue.find(name).summary == "Something of mine."


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("serch", "no tool server 'serch'\n  → use .*search"),
        ("shell", "no tool server 'shell'"),
        ("none.py", "no Python file .*/none.py"),
        ("no.such.module", "no Python module no.such.module"),
        ("beside.py", "beside.py has no TOOL_SERVER"),
        ("broken.py", "broken.py cannot be imported: ZeroDivisionError"),
        ("needs.py", "needs.py cannot be imported: ModuleNotFoundError: .*'nothing_of_that_name'"),
    ],
)
def test_what_is_no_server_is_one_clear_error(here: Path, name: str, said: str) -> None:
    (here / "broken.py").write_text("1 / 0")
    (here / "needs.py").write_text("import nothing_of_that_name")
    with pytest.raises(UserError, match=said):
        catalogue.find(name)


def test_a_shipped_server_without_its_package_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from agent_pipelines import toolservers

    (tmp_path / "cpu.py").write_text("import nothing_of_that_name")
    monkeypatch.setattr(toolservers, "__path__", [*toolservers.__path__, str(tmp_path)])
    with pytest.raises(UserError, match=r"'nothing_of_that_name'.*\n.*agent-pipelines\[cpu\]"):
        catalogue.find("cpu")
    # The others are listed all the same, and this one with the reason.
    assert "nothing_of_that_name" in catalogue.shipped()["cpu"]


@pytest.mark.parametrize(
    ("argv", "env", "said"),
    [
        (["no-such-command", "-y"], [], "no command 'no-such-command'"),
        (["no-such-command -y"], [], "no command 'no-such-command'"),
        ([sys.executable], ["UNSET_VARIABLE"], "--env UNSET_VARIABLE: this variable is not set"),
    ],
)
def test_a_stdio_command_that_cannot_be_run_is_one_clear_error(
    argv: list[str], env: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        command.serve_stdio(argv, env, Options())


def test_a_command_in_one_string_is_split_as_a_shell_does() -> None:
    quoted = f"'{sys.executable}' -c 'print(1)'"
    assert command.split([quoted]) == (sys.executable, "-c", "print(1)")


@pytest.mark.parametrize(
    ("name", "function", "said"),
    [
        ("mine", None, "mine.py exists, and nothing is ever overwritten"),
        ("Weather", None, "'Weather' cannot be the name"),
        ("json", None, "'json' cannot be the name"),
        ("x", "functions", "names no function"),
        ("x", "functions:none", "functions has no function 'none'"),
        ("x", "no_module:f", "no_module cannot be imported"),
        ("x", "functions:untyped", "does not say the type of parameter 'text'"),
        ("x", "functions:unspoken", "has no docstring"),
    ],
)
def test_new_writes_nothing_where_it_cannot_write_all(
    here: Path, name: str, function: str | None, said: str
) -> None:
    before = sorted(here.iterdir())
    with pytest.raises(UserError, match=said):
        new_tool.write(here, name, function)
    assert [file for file in sorted(here.iterdir()) if file.suffix == ".py"] == [
        file for file in before if file.suffix == ".py"
    ]
