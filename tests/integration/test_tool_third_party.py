"""Tool servers of others behind the same resource: Weaviate's own, and the one for Kubernetes."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agent_pipelines.agents.guard import GuardedSession
from agent_pipelines.agents.tally import Tally
from agent_pipelines.agents.tools import ToolTransportError
from resources.tools import ToolServerResource
from resources.weaviate import WeaviateStore
from tests.engine import raw
from tests.kubernetes_mcp import kubernetes_mcp

T = TypeVar("T")


def within(resource: ToolServerResource, use: Callable[[GuardedSession], Awaitable[T]]) -> T:
    async def main() -> T:
        async with resource.session() as session:
            return await use(session)

    return asyncio.run(main())


class TestWeaviate:
    """`/v1/mcp`, with an API key as its bearer token."""

    @pytest.fixture
    def resource(
        self, weaviate_url: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> ToolServerResource:
        monkeypatch.setenv("WEAVIATE_MCP_TOKEN", weaviate_url["api_key"])
        return ToolServerResource(
            name="weaviate",
            url=f"{weaviate_url['url']}/v1/mcp",
            token_variable="WEAVIATE_MCP_TOKEN",
        )

    def test_its_tools_are_listed_and_called(
        self, resource: ToolServerResource, store: WeaviateStore
    ) -> None:
        raw(store).collections.create("OfAnotherServer", description="for its MCP server")

        async def use(session: GuardedSession) -> Any:
            tools = {tool.name: tool for tool in await session.list_tools()}
            arguments = {"collection_name": "OfAnotherServer"}
            return tools, await session.call("weaviate-collections-get-config", arguments)

        try:
            tools, result = within(resource, use)
        finally:
            raw(store).collections.delete("OfAnotherServer")
        assert {"weaviate-collections-get-config", "weaviate-query-hybrid"} <= set(tools)
        assert tools["weaviate-query-hybrid"].repeatable, "as its annotations say"
        assert not result.is_error
        assert "for its MCP server" in (result.text or json.dumps(result.structured))

    def test_its_own_errors_are_a_tools_and_close_nothing(
        self, resource: ToolServerResource
    ) -> None:
        async def use(session: GuardedSession) -> Any:
            await session.list_tools()
            arguments = {"collection_name": "Missing", "query": "x"}
            for _ in range(4):
                result = await session.call("weaviate-query-hybrid", arguments)
            return result, session.breaker.state

        result, state = within(resource, use)
        assert result.is_error
        assert state == "closed"

    def test_a_wrong_token_is_said_with_its_remedy(
        self, resource: ToolServerResource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WEAVIATE_MCP_TOKEN", "wrong")

        async def use(session: GuardedSession) -> Any:
            await session.list_tools()
            return await session.call("weaviate-collections-get-config", {})

        with pytest.raises(ToolTransportError) as refused:
            within(resource, use)
        assert "401" in str(refused.value)
        assert "set `token` or `token_file`" in str(refused.value)

    def test_a_token_is_read_anew_and_one_that_is_gone_ends_no_session(
        self, weaviate_url: dict[str, str], tmp_path: Path
    ) -> None:
        file = tmp_path / "token"
        file.write_text(weaviate_url["api_key"] + "\n")
        url = f"{weaviate_url['url']}/v1/mcp"
        resource = ToolServerResource(name="weaviate", url=url, token_file=str(file))

        async def use(session: GuardedSession) -> None:
            tools = [tool.name for tool in await session.list_tools()]
            away = file.rename(tmp_path / "away")
            with pytest.raises(ToolTransportError, match=r"`token_file` .* cannot be read"):
                await session.list_tools()
            away.rename(file)
            assert [tool.name for tool in await session.list_tools()] == tools

        within(resource, use)


class TestKubernetes:
    """It keeps sessions, so a restart of it forgets ours."""

    def test_its_tools_are_listed_allowed_and_called(self, tmp_path: Path) -> None:
        async def use(session: GuardedSession) -> Any:
            tools = {tool.name: tool.repeatable for tool in await session.list_tools()}
            return (
                tools,
                await session.call("configuration_view", {}),
                await session.call("pods_list", {}),
            )

        with kubernetes_mcp(tmp_path) as server:
            resource = ToolServerResource(
                name="cluster", url=server.url, tools=["configuration_view", "pods_list"]
            )
            tools, config, pods = within(resource, use)
        assert tools == {"configuration_view": True, "pods_list": True}
        assert not config.is_error
        assert "nowhere" in config.text
        # Its cluster is down, which is a tool's error as far as anybody but itself can tell.
        assert pods.is_error

    def test_a_session_that_it_has_forgotten_is_opened_again(self, tmp_path: Path) -> None:
        tally = Tally()

        async def main() -> None:
            resource = ToolServerResource(name="cluster", url=server.url)
            async with resource.session(tally) as session:
                await session.list_tools()
                assert not (await session.call("configuration_view", {})).is_error
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                results = await asyncio.gather(
                    *(session.call("configuration_view", {}) for _ in range(2))
                )
                assert not any(result.is_error for result in results)
                assert session.breaker.state == "closed"

        with kubernetes_mcp(tmp_path) as server:
            asyncio.run(main())
        assert tally.outcomes["cluster", "configuration_view", "ok"] == 3
        assert tally.outcomes["cluster", "configuration_view", "transport"] > 0
