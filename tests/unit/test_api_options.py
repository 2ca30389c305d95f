"""What the command line and the environment say of the API, and what is said of a wrong value."""

from dataclasses import fields

import pytest
from typer.testing import CliRunner

from agent_pipelines.api.options import ApiOptions
from agent_pipelines.cli import app
from agent_pipelines.errors import UserError


def test_its_variables_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {
        "API_MAX_CONCURRENT": "3",
        "API_MAX_WAITING": "5",
        "API_DRAIN_SECONDS": "2",
        "TOOLS_MAX_CONCURRENT": "7",
    }.items():
        monkeypatch.setenv(variable, value)
    options = ApiOptions.from_environment(port=8080)
    assert options == ApiOptions(port=8080, max_concurrent=3, max_waiting=5, drain_seconds=2.0)


def test_how_long_an_answer_may_take_is_said_by_its_agent_alone() -> None:
    assert "call_timeout_seconds" not in {field.name for field in fields(ApiOptions)}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("API_MAX_WAITING", "many"),
        ("API_MAX_CONCURRENT", "0"),
        ("API_TOKEN_FILE", "/nowhere/tokens"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError) as told:
        ApiOptions.from_environment()
    assert told.value.message == f"{variable} is {value!r}"
    assert told.value.remedy


def test_its_help_teaches() -> None:
    told = CliRunner().invoke(app, ["api", "--help"], terminal_width=120)
    assert told.exit_code == 0
    for word in ("curl", "API_TOKEN_FILE", "API_TLS_CLIENT_CA", "task_id", "text/event-stream"):
        assert word in told.output
