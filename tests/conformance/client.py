"""What the suite runs as the client under test: our session, doing what each scenario asks of it.

Belongs here: which tools are called. Does not belong here: any part of the protocol; that is
`resources.tool_session`'s, as every agent uses it.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent_pipelines.agents.tools import ToolInfo

_BY_TYPE: dict[str, Any] = {"string": "x", "integer": 0, "number": 0, "boolean": False}


async def main(url: str, scenario: str, context: dict[str, Any]) -> None:
    # Imported here: many scenarios end before it.
    from resources.tool_session import open_session

    async with open_session(url, connect_timeout=30, call_timeout=60) as session:
        tools = await session.list_tools()
        if scenario == "sse-retry":
            # The suite takes any GET for the reconnection that it waits for. The session's own
            # stream is opened beside the first requests, on a busy machine after them.
            await asyncio.sleep(1)
        for name, arguments in _calls(scenario, tools, context):
            result = await session.call(name, arguments)
            print(name, "failed:" if result.is_error else "answered:", result.text)


def _calls(
    scenario: str, tools: "Sequence[ToolInfo]", context: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    offered = {tool.name: tool.input_schema for tool in tools}
    if scenario == "http-custom-headers":
        for call in context["toolCalls"]:
            if call["name"] in offered:
                yield call["name"], call.get("arguments") or {}
    elif scenario == "json-schema-2020-12-preservation":
        yield "json_schema_echo", {"schema": offered["json_schema_2020_12_tool"]}
    elif "add_numbers" in offered:
        yield "add_numbers", {"a": 5, "b": 3}
    else:
        for name, schema in offered.items():
            types = schema.get("properties", {})
            yield (
                name,
                {
                    key: _BY_TYPE.get(types.get(key, {}).get("type"), "x")
                    for key in schema.get("required", [])
                },
            )


if __name__ == "__main__":
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    if scenario.startswith("auth/"):
        sys.exit("our client has no OAuth: its token is configured")
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    asyncio.run(main(sys.argv[-1], scenario, context))
