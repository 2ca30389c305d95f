"""Where the resources find a model and a tool server, and what they say when there is none."""

import asyncio
from pathlib import Path

import pytest

from agent_pipelines.errors import UnavailableError, UserError
from resources.llm import LlmEndpoint, LlmResource
from resources.tools import ToolServerResource
from tests.scripted_model import MODEL, ScriptedModel, says

VARIABLES = ("LLM_BASE_URL", "LLM_MODEL", "LLM_API_KEY", "SEARCH_TOOL_URL")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENT_PIPELINES_STATE_DIR", str(tmp_path))


def test_nothing_configured_and_nothing_running_is_said_with_its_remedy() -> None:
    with pytest.raises(UserError, match="LLM_BASE_URL is not set"):
        LlmResource().endpoint()
    with pytest.raises(UserError, match="agent-pipelines dev"):
        ToolServerResource().endpoint()


def test_fields_come_before_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_BASE_URL", "http://setting/v1")
    monkeypatch.setenv("LLM_MODEL", "setting")
    monkeypatch.setenv("SEARCH_TOOL_URL", "http://setting/mcp")
    assert LlmResource().endpoint() == LlmEndpoint("http://setting/v1", "setting", "none")
    own = LlmResource(base_url="http://own/v1", model="own", api_key="key")
    assert own.endpoint() == LlmEndpoint("http://own/v1", "own", "key")
    assert ToolServerResource().endpoint() == "http://setting/mcp"
    assert ToolServerResource(url="http://own/mcp").endpoint() == "http://own/mcp"


def test_embedded_parts_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        "vllm": {"url": "http://127.0.0.1:1/v1", "model": "smol"},
        "search": {"url": "http://127.0.0.1:2"},
    }
    monkeypatch.setattr(
        "agent_pipelines.local.parts.addresses", lambda _state_dir, name: parts[name]
    )
    assert LlmResource().endpoint() == LlmEndpoint("http://127.0.0.1:1/v1", "smol", "none")
    assert ToolServerResource().endpoint() == "http://127.0.0.1:2/mcp"


def test_a_model_without_a_name_is_the_first_one_served() -> None:
    async def ask(resource: LlmResource) -> str:
        async with resource.open() as model:
            reply = await model.reply([], temperature=0, completion_tokens=16, options={})
            return str(reply.message["content"])

    with ScriptedModel([says("hello")]) as server:
        resource = LlmResource(base_url=server.base_url)
        assert resource.endpoint().model == MODEL
        assert asyncio.run(ask(resource)) == "hello"


def test_a_model_server_that_is_gone_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="does not list its models"):
        LlmResource(base_url="http://127.0.0.1:9/v1").endpoint()


def test_a_file_without_a_secret_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    empty = tmp_path / "token"
    empty.write_text("\n")

    async def ask() -> None:
        server = ToolServerResource(url="http://127.0.0.1:1/mcp", token_file=str(empty))
        async with server.session():
            pytest.fail("it was opened")

    with pytest.raises(UserError, match=f"`token_file` {empty} cannot be read: it is empty"):
        asyncio.run(ask())
