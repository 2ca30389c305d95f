"""The shell's settings in the environment: what they become, and what is said of a wrong one."""

import asyncio
import socket
from pathlib import Path

import pytest

from agent_pipelines.errors import UserError
from agent_pipelines.toolservers.shell import TLS, Options, serve
from tests.shell_server import build


async def _ready() -> None:
    return None


def test_the_environment_says_everything_but_the_addresses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("cert", "key", "ca", "token"):
        (tmp_path / name).touch()
    for variable, value in {
        "TLS_CERT": tmp_path / "cert",
        "TLS_KEY": tmp_path / "key",
        "TLS_CLIENT_CA": tmp_path / "ca",
        "TOKEN_FILE": tmp_path / "token",
        "ALLOWED_HOSTS": "tools.agents.svc:8443, tools:*",
        "ALLOWED_ORIGINS": "https://console.example.com",
        "MAX_REQUEST_BYTES": 1000,
        "MAX_CONCURRENT": 3,
        "CALL_TIMEOUT_SECONDS": 1.5,
        "DRAIN_SECONDS": 2,
    }.items():
        monkeypatch.setenv(f"TOOLS_{variable}", str(value))
    options = Options.from_environment(host="0.0.0.0", port=8443)
    assert options == Options(
        host="0.0.0.0",
        port=8443,
        tls=TLS(tmp_path / "cert", tmp_path / "key", tmp_path / "ca"),
        token_file=tmp_path / "token",
        allowed_hosts=("tools.agents.svc:8443", "tools:*"),
        allowed_origins=("https://console.example.com",),
        max_request_bytes=1000,
        max_concurrent=3,
        call_timeout_seconds=1.5,
        drain_seconds=2.0,
    )
    assert options.second_port == 9090, "a probe has no certificate to show"
    assert Options().second_port is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TOOLS_TLS_CERT", "/nowhere/tls.crt"),
        ("TOOLS_TLS_CLIENT_CA", "/nowhere/ca.crt"),
        ("TOOLS_TOKEN_FILE", "/nowhere/token"),
        ("TOOLS_ALLOWED_HOSTS", "https://tools.example.com"),
        ("TOOLS_ALLOWED_HOSTS", " , "),
        ("TOOLS_ALLOWED_ORIGINS", "console.example.com"),
        ("TOOLS_MAX_REQUEST_BYTES", "1 MB"),
        ("TOOLS_MAX_CONCURRENT", "0"),
        ("TOOLS_CALL_TIMEOUT_SECONDS", "nan"),
        ("TOOLS_DRAIN_SECONDS", "-1"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError) as told:
        Options.from_environment()
    assert told.value.message == f"{variable} is {value!r}"
    assert told.value.remedy


@pytest.mark.parametrize(("set_", "missing"), [("CERT", "KEY"), ("KEY", "CERT")])
def test_half_a_pair_of_tls_files_is_no_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, set_: str, missing: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(f"TOOLS_TLS_{set_}", str(tmp_path / "file"))
    with pytest.raises(UserError, match=f"TOOLS_TLS_{missing} is not set"):
        Options.from_environment()


def test_files_that_cannot_be_used_are_said_before_anything_listens(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for options, named in (
        (Options(tls=TLS(empty, empty)), "TOOLS_TLS_CERT"),
        (Options(token_file=empty), "TOOLS_TOKEN_FILE"),
    ):
        with pytest.raises(UserError) as told:
            asyncio.run(serve(build(), ready=_ready, options=options))
        assert named in str(told.value)
        assert str(empty) in str(told.value)


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1 port {port}"):
            asyncio.run(serve(build(), ready=_ready, options=Options(port=port)))
