"""What the conformance suite wants to find on a server, by the names and texts that it prescribes.

Belongs here: its tools, prompts and resources. Does not belong here: how they are served
(`server.py`), or any tool that an agent could use.
"""

import asyncio
import base64
import json
from enum import StrEnum
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    Completion,
    CompletionArgument,
    CompletionContext,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel, Field

#: One red pixel.
_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)

#: A header, and no sound after it.
_WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="

#: Between two notifications of one call: the suite wants them to arrive one by one.
_PAUSE_SECONDS = 0.05

#: Every keyword of JSON Schema 2020-12 that must reach a client as it is.
_SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


class Response(BaseModel):
    response: str


class Status(StrEnum):
    ACTIVE = "active"
    INACTIVE = "inactive"
    PENDING = "pending"


class Defaults(BaseModel):
    """A default of every primitive type."""

    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field("active", json_schema_extra={"enum": [*Status]})
    verified: bool = True


def _titled(**titles: str) -> list[Any]:
    return [{"const": value, "title": title} for value, title in titles.items()]


class Choices(BaseModel):
    """An enumeration in each of the five ways to write one."""

    untitledSingle: str = Field(json_schema_extra={"enum": ["option1", "option2"]})  # noqa: N815
    titledSingle: str = Field(json_schema_extra={"oneOf": _titled(value1="One", value2="Two")})  # noqa: N815
    legacyEnum: str = Field(  # noqa: N815
        json_schema_extra={"enum": ["opt1", "opt2"], "enumNames": ["One", "Two"]}
    )
    untitledMulti: list[str] = Field(  # noqa: N815
        json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2"]}}
    )
    titledMulti: list[str] = Field(  # noqa: N815
        json_schema_extra={"items": {"anyOf": _titled(value1="One", value2="Two")}}
    )


def build(server: MCPServer) -> None:
    """Give a server all of it."""
    _contents(server)
    _notifications(server)
    _questions_on_a_stream(server)
    _questions_as_results(server)
    _resources(server)
    _prompts(server)


def schema_tool() -> Tool:
    """A tool whose schema no signature could have; the SDK takes such a one ready-made only."""

    def json_schema_2020_12_tool() -> str:
        """Has an input schema with keywords of JSON Schema 2020-12."""
        return "called"

    return Tool.from_function(json_schema_2020_12_tool).model_copy(
        update={"parameters": _SCHEMA_2020_12}
    )


def _embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    contents = TextResourceContents(uri=uri, mime_type=mime_type, text=text)
    return EmbeddedResource(type="resource", resource=contents)


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _image() -> ImageContent:
    return ImageContent(type="image", data=_PNG, mime_type="image/png")


def _contents(server: MCPServer) -> None:
    @server.tool()
    def test_simple_text() -> str:
        """Returns a text."""
        return "This is a simple text response for testing."

    @server.tool()
    def test_image_content() -> list[ImageContent]:
        """Returns an image."""
        return [_image()]

    @server.tool()
    def test_audio_content() -> list[AudioContent]:
        """Returns a sound."""
        return [AudioContent(type="audio", data=_WAV, mime_type="audio/wav")]

    @server.tool()
    def test_embedded_resource() -> list[EmbeddedResource]:
        """Returns a resource."""
        return [_embedded("test://embedded-resource", "This is an embedded resource content.")]

    @server.tool()
    def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
        """Returns a text, an image and a resource."""
        data = json.dumps({"test": "data", "value": 123})
        resource = _embedded("test://mixed-content-resource", data, "application/json")
        return [_text("Multiple content types test:"), _image(), resource]

    @server.tool()
    def test_error_handling() -> str:
        """Fails."""
        raise RuntimeError("This tool intentionally returns an error for testing")

    @server.tool()
    def test_x_mcp_header(
        region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "anywhere",
    ) -> str:
        """Has a parameter that is mirrored in a header."""
        return region

    @server.tool()
    def test_missing_capability(ctx: Context) -> str:
        """Serves only clients that can sample."""
        capabilities = ctx.client_capabilities
        if capabilities is None or capabilities.sampling is None:
            raise MCPError(
                MISSING_REQUIRED_CLIENT_CAPABILITY,
                "this tool needs a client that can sample",
                {"requiredCapabilities": {"sampling": {}}},
            )
        return "This client can sample."


def _notifications(server: MCPServer) -> None:
    @server.tool()
    async def test_tool_with_logging(ctx: Context) -> str:
        """Logs three times."""
        for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.info(said)
            await asyncio.sleep(_PAUSE_SECONDS)
        return "Logged."

    server.add_tool(test_tool_with_logging, name="test_logging_tool", description="The same.")

    @server.tool()
    async def test_tool_with_progress(ctx: Context) -> str:
        """Reports progress three times."""
        for percent in (0, 50, 100):
            await ctx.report_progress(percent, 100, f"{percent} of 100 steps")
            await asyncio.sleep(_PAUSE_SECONDS)
        return "Done."

    @server.tool()
    async def test_reconnection(ctx: Context) -> str:
        """Closes its own stream; what it says then is for a client that comes back."""
        await ctx.close_sse_stream()
        await asyncio.sleep(4 * _PAUSE_SECONDS)
        return "Still here."

    def nothing() -> str:
        """Comes and goes."""
        return "nothing"

    @server.tool()
    async def test_trigger_tool_change(ctx: Context) -> str:
        """Changes the list of tools."""
        server.add_tool(nothing, name="test_passing_tool")
        server.remove_tool("test_passing_tool")
        await ctx.notify_tools_changed()
        return "changed"

    @server.tool()
    async def test_trigger_prompt_change(ctx: Context) -> str:
        """Changes the list of prompts."""
        server.add_prompt(Prompt.from_function(nothing, name="test_passing_prompt"))
        server.remove_prompt("test_passing_prompt")
        await ctx.notify_prompts_changed()
        return "changed"


def _questions_on_a_stream(server: MCPServer) -> None:
    """The era with a handshake: a request of the server's own, on the stream of the call."""

    @server.tool()
    async def test_sampling(prompt: str, ctx: Context) -> str:
        """Asks the client's model."""
        answer = await ctx.session.create_message(
            messages=[SamplingMessage(role="user", content=_text(prompt))],
            max_tokens=100,
            # Without it the request would go to a stream that may not be open.
            related_request_id=ctx.request_id,
        )
        return f"LLM response: {getattr(answer.content, 'text', '')}"

    async def ask(ctx: Context, message: str, schema: type[BaseModel]) -> str:
        answer = await ctx.elicit(message=message, schema=schema)
        content = answer.data.model_dump_json() if answer.action == "accept" else "{}"
        return f"action={answer.action}, content={content}"

    @server.tool()
    async def test_elicitation(message: str, ctx: Context) -> str:
        """Asks the user."""
        return "User response: " + await ask(ctx, message, Response)

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
        """Asks the user, with defaults."""
        return "Elicitation completed: " + await ask(ctx, "Please review", Defaults)

    @server.tool()
    async def test_elicitation_sep1330_enums(ctx: Context) -> str:
        """Asks the user to choose."""
        return "Elicitation completed: " + await ask(ctx, "Please choose", Choices)


def _form(message: str, **properties: str) -> ElicitRequest:
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(prompt: str) -> CreateMessageRequest:
    messages = [SamplingMessage(role="user", content=_text(prompt))]
    return CreateMessageRequest(
        params=CreateMessageRequestParams(messages=messages, max_tokens=100)
    )


def _filled_in(ctx: Context, key: str, field: str) -> Any:
    """What was filled in for ``field`` in the answer to question ``key``; None: not answered."""
    answer = (ctx.input_responses or {}).get(key)
    return (answer.content or {}).get(field) if isinstance(answer, ElicitResult) else None


def _questions_as_results(server: MCPServer) -> None:
    """The stateless era: a result that asks, and the same call once more with the answers."""

    @server.tool()
    def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
        """Greets whoever it is told to greet."""
        if (name := _filled_in(ctx, "user_name", "name")) is not None:
            return f"Hello, {name}!"
        return InputRequiredResult(
            input_requests={"user_name": _form("What is your name?", name="string")}
        )

    server.add_tool(
        test_input_required_result_elicitation,
        name="test_streaming_elicitation",
        description="The same.",
    )

    @server.tool()
    def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
        """Asks the client's model."""
        if answer := (ctx.input_responses or {}).get("capital_question"):
            return f"The model said: {getattr(getattr(answer, 'content', None), 'text', '')}"
        return InputRequiredResult(
            input_requests={"capital_question": _sample("What is the capital of France?")}
        )

    @server.tool()
    def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
        """Counts the client's roots."""
        if answer := (ctx.input_responses or {}).get("client_roots"):
            return f"{len(getattr(answer, 'roots', []))} roots"
        return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})

    @server.tool()
    def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
        """Wants its own words back."""
        if ctx.request_state == "mine" and _filled_in(ctx, "confirm", "ok") is not None:
            return "state-ok"
        return InputRequiredResult(
            input_requests={"confirm": _form("Please confirm", ok="boolean")}, request_state="mine"
        )

    @server.tool()
    def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
        """Never sees words that are not its own: the SDK refuses them."""
        if ctx.request_state is not None:
            return "state-ok"
        return InputRequiredResult(
            input_requests={"confirm": _form("Please confirm", ok="boolean")}, request_state="mine"
        )

    @server.tool()
    def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
        """Asks three things at once."""
        asked: dict[str, InputRequest] = {
            "user_name": _form("What is your name?", name="string"),
            "greeting": _sample("Greet somebody"),
            "client_roots": ListRootsRequest(),
        }
        if asked.keys() <= (ctx.input_responses or {}).keys():
            return "All were answered."
        return InputRequiredResult(input_requests=asked, request_state="three")

    @server.tool()
    def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
        """Asks a second thing once the first is answered."""
        known = json.loads(ctx.request_state or "{}")
        if "name" in known and (color := _filled_in(ctx, "step2", "color")) is not None:
            return f"{known['name']} likes {color}."
        if (name := _filled_in(ctx, "step1", "name")) is not None:
            return InputRequiredResult(
                input_requests={"step2": _form("Which color do you like?", color="string")},
                request_state=json.dumps({"name": name}),
            )
        return InputRequiredResult(
            input_requests={"step1": _form("What is your name?", name="string")},
            request_state=json.dumps({"round": 1}),
        )

    @server.tool()
    def test_input_required_result_capabilities(ctx: Context) -> InputRequiredResult:
        """Asks only what this client can answer."""
        can = ctx.client_capabilities
        asked: dict[str, InputRequest] = {}
        if can is not None and can.sampling is not None:
            asked["sample"] = _sample("Say hello")
        if can is not None and can.elicitation is not None:
            asked["ask"] = _form("What is your name?", name="string")
        return InputRequiredResult(input_requests=asked, request_state="asked")


def _resources(server: MCPServer) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        """A text."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        """An image."""
        return base64.b64decode(_PNG)

    @server.resource("test://watched-resource", mime_type="text/plain")
    def watched() -> str:
        """A text that could change."""
        return "It did not change."

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:  # noqa: A002 - the name is the template's
        """Data of any id."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def _says(*contents: Any) -> list[UserMessage]:
    return [UserMessage(content=content) for content in contents]


def _prompts(server: MCPServer) -> None:
    @server.prompt()
    def test_simple_prompt() -> list[UserMessage]:
        """Without arguments."""
        return _says(_text("This is a simple prompt for testing."))

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
        """With two arguments."""
        return _says(_text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803
        """With a resource."""
        resource = _embedded(resourceUri, "Embedded resource content for testing.")
        return _says(resource, _text("Please process the embedded resource above."))

    @server.prompt()
    def test_prompt_with_image() -> list[UserMessage]:
        """With an image."""
        return _says(_image(), _text("Please analyze the image above."))

    @server.prompt()
    def test_input_required_result_prompt(
        ctx: Context,
    ) -> list[UserMessage] | InputRequiredResult:
        """Asks for its context."""
        if (context := _filled_in(ctx, "user_context", "context")) is not None:
            return _says(_text(f"Use this context: {context}"))
        return InputRequiredResult(
            input_requests={"user_context": _form("Which context?", context="string")}
        )

    @server.completion()
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        return Completion(values=[], total=0, has_more=False)
