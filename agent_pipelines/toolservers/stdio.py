"""Any stdio MCP server, behind the shell: what it offers passes through unchanged.

Belongs here: which requests are passed on, and what a caller is told when the child does not
answer. Does not belong here: the child's life (`stdio_child`) or how anything is served (`shell`).

What needs a way back to the caller stays behind, for any replica must be able to answer any call:
the child is told of no sampling, elicitation or roots, and nobody can subscribe.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_args

from mcp.server import CacheHint, Server, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from mcp.types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    CONNECTION_CLOSED,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    REQUEST_TIMEOUT,
    CallToolRequestParams,
    CallToolResult,
    CompleteRequestParams,
    GetPromptRequestParams,
    Implementation,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    RequestParams,
    TextContent,
)
from mcp.types.methods import CacheableMethod

from agent_pipelines.toolservers.outcome import outage
from agent_pipelines.toolservers.stdio_child import Child, Down, Slow

#: By the capability that says whether the child has it.
_PASSED_ON: Mapping[str, Mapping[str, type[RequestParams]]] = {
    "tools": {"tools/list": PaginatedRequestParams, "tools/call": CallToolRequestParams},
    "resources": {
        "resources/list": PaginatedRequestParams,
        "resources/templates/list": PaginatedRequestParams,
        "resources/read": ReadResourceRequestParams,
    },
    "prompts": {"prompts/list": PaginatedRequestParams, "prompts/get": GetPromptRequestParams},
    "completions": {"completion/complete": CompleteRequestParams},
}

#: Of the session between the caller and us. The one between us and the child has its own.
_OURS = {
    PROTOCOL_VERSION_META_KEY,
    CLIENT_INFO_META_KEY,
    CLIENT_CAPABILITIES_META_KEY,
    LOG_LEVEL_META_KEY,
    "progressToken",
}

_Context = ServerRequestContext[Any, Any]


def build_server(child: Child) -> Server[Any]:
    """A server that offers what the child does, under the child's name."""
    info = child.info or Implementation(name=child.name, version="")
    server: Server[Any] = Server(
        info.name,
        version=info.version,
        title=info.title,
        description=info.description,
        website_url=info.website_url,
        icons=info.icons,
        instructions=child.instructions,
        # A child of the older era says nothing of caching; the newer one wants it said: none.
        cache_hints=dict.fromkeys(get_args(CacheableMethod), CacheHint()),
        get_tool_input_schema=lambda name: child.tools.get(name),
    )
    for capability, methods in _PASSED_ON.items():
        if getattr(child.capabilities, capability) is not None:
            for method, params in methods.items():
                server.add_request_handler(method, params, _pass_on(child, method))
    return server


def _pass_on(
    child: Child, method: str
) -> Callable[[_Context, RequestParams], Awaitable[dict[str, Any] | CallToolResult]]:
    async def answer(ctx: _Context, _: RequestParams) -> dict[str, Any] | CallToolResult:
        wanted = progress_token_from_params(ctx.params) is not None
        try:
            asked = child.ask(
                method,
                _without_ours(ctx.params or {}),
                ctx.session.report_progress if wanted else None,
            )
            result = await asked
        except Down as error:
            text = f"{child.name} did not answer: {error}."
            if method != "tools/call":
                raise MCPError(CONNECTION_CLOSED, text) from error
            return outage(
                child.name,
                f"{text} This is an outage of the tool: say so, or try again later. If the call "
                "was to change something, find out first whether it did.",
            )
        except Slow as error:
            text = f"{child.name} gave {error}, and was told to stop."
            if method != "tools/call":
                raise MCPError(REQUEST_TIMEOUT, text) from error
            return CallToolResult(
                content=[
                    TextContent(
                        type="text",
                        text=f"{text} Ask for less at once. If the call was to change something, "
                        "find out first whether it did.",
                    )
                ],
                is_error=True,
            )
        # The older era has but one kind of result, and does not say which.
        return {"resultType": "complete", **result}

    return answer


def _without_ours(params: Mapping[str, Any]) -> dict[str, Any]:
    passed = dict(params)
    meta = {key: value for key, value in passed.pop("_meta", {}).items() if key not in _OURS}
    return passed | ({"_meta": meta} if meta else {})
