"""Whatever is sent to a tool server: it says what is wrong with it, and goes on.

Real HTTP to the search server of `test_tool_search`, in a process of its own.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.integration.test_tool_search import Server, running

#: What the process may grow by in one test, in bytes; one that keeps each request grows by more.
_ROOM = 32 * 1024**2

_ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}

_SETTINGS = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(["runbooks", "pod", "chunk-1", "../..", "\ud800", "\x00", "9" * 5000, 10**400]),
)

ANY_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)

#: Arguments that the tools have, with values that they do not expect; and others.
ARGUMENTS = st.dictionaries(
    st.sampled_from(["index", "query", "limit", "where", "by", "chunk_id", "", "self", "ctx"]),
    ANY_JSON,
) | st.dictionaries(st.text(), ANY_JSON)

REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | ANY_JSON,
        "id": st.integers(0, 9) | ANY_JSON,
        "method": st.sampled_from(
            ["tools/call", "tools/list", "initialize", "server/discover", "ping", "no/such"]
        )
        | ANY_JSON,
        "params": st.fixed_dictionaries(
            {},
            optional={
                "name": st.just("search") | ANY_JSON,
                "arguments": ANY_JSON,
                "_meta": ANY_JSON,
                "protocolVersion": ANY_JSON,
                "cursor": ANY_JSON,
            },
        )
        | ANY_JSON,
        "result": ANY_JSON,
    },
)

VERSIONS = st.sampled_from([None, "2025-11-25", "2026-07-28", "1999-01-01", "", "é"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("fuzz")) as started:
        yield started


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=10) as client:
        yield client


@pytest.fixture
def bounded(server: Server, http: httpx2.Client) -> Iterator[None]:
    """The process is the one that was there before, and has not grown by much."""
    process = psutil.Process(server.process.pid)
    # What it loads for its first requests is not what they leave behind.
    for _ in range(50):
        http.post(server.url, content=_call("search", {"query": 1}), headers=_ACCEPT)
    before = process.memory_info().rss
    yield
    assert server.process.poll() is None
    assert server.get("/health").text == "alive\n"
    assert process.memory_info().rss < before + _ROOM


def _call(tool: Any, arguments: Any) -> bytes:
    params = {"name": tool, "arguments": arguments}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return json.dumps(request).encode()


@pytest.mark.usefixtures("bounded")
def test_any_arguments_are_answered(server: Server, http: httpx2.Client) -> None:
    @_SETTINGS
    @given(tool=st.sampled_from(["search", "fetch", "list_indexes"]), arguments=ARGUMENTS)
    def ask(tool: str, arguments: dict[str, Any]) -> None:
        response = http.post(server.url, content=_call(tool, arguments), headers=_ACCEPT)
        answer = response.json()
        assert response.status_code < 500, answer
        if "error" in answer:
            assert answer["error"]["message"]
        else:
            (content,) = answer["result"]["content"]
            assert "Traceback" not in content["text"]

    ask()


@pytest.mark.usefixtures("bounded")
def test_what_is_no_request_is_answered_with_an_error(server: Server, http: httpx2.Client) -> None:
    @_SETTINGS
    @given(body=st.binary() | REQUESTS.map(lambda r: json.dumps(r).encode()), version=VERSIONS)
    @example(body=b"[" * 100_000, version=None)
    @example(body=b'{"a":' * 50_000, version="2026-07-28")
    @example(body=b"9" * 100_000, version="2026-07-28")
    @example(body=b"[" + b"{}," * 100_000 + b"{}]", version="2025-11-25")
    @example(body=b"\xff\xfe\x00", version=None)
    @example(body=b"", version="2026-07-28")
    @example(body=_call("search", {"query": "x" * 900_000}), version=None)
    @example(body=b"\x00" * 8 * 1024**2, version=None)
    def send(body: bytes, version: str | None) -> None:
        headers = {**_ACCEPT, **({"mcp-protocol-version": version} if version else {})}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        response = http.post(server.url, content=body, headers=raw)
        assert response.status_code < 500, (response.status_code, response.text)
        if response.is_success and response.content:
            assert response.json()["jsonrpc"] == "2.0"

    send()
