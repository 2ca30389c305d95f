"""What an agent is: the part of it that a person writes in YAML.

Belongs here: fields, their meaning and their limits. Does not belong here: where its model and
tools are (resources) or how its turns are put to the model (`modes.py`).
"""

import importlib.util
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from agent_pipelines.agents.concurrency import DEFAULT
from agent_pipelines.agents.schemas import check_output_schema, inlined
from agent_pipelines.class_paths import callable_at, class_at
from agent_pipelines.errors import UserError

#: The tool server that reads indexes; where nothing else is said, the one that runs here.
SEARCH_SERVER = "search"

#: The model server of an agent that names none.
DEFAULT_LLM = "llm"

#: Server and name of the tools that read one index: theirs is the agent's, never the model's.
INDEX_TOOLS = ((SEARCH_SERVER, "search"), (SEARCH_SERVER, "fetch"))

_TASK_FIELD = re.compile(r"\{(\w+)\}")

_ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string", "minLength": 1}},
    "required": ["answer"],
}


def task_field(value: Any) -> str | None:
    """The field that a bound argument such as ``{question}`` stands for; None for a plain value."""
    found = _TASK_FIELD.fullmatch(value) if isinstance(value, str) else None
    return found[1] if found else None


class Limits(BaseModel):
    """What one task may cost before it is given up, recorded and left behind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turns: int = Field(default=4, ge=1, description="Replies asked of the model.")
    tool_calls: int = Field(default=4, ge=0, description="Tool calls sent.")
    completion_tokens: int = Field(default=512, ge=16, description="Length of one reply.")
    tokens: int | None = Field(
        default=None,
        ge=1,
        description="Tokens of all its prompts and replies together, after which no more is asked.",
    )
    seconds: float = Field(default=300.0, gt=0, description="Time for the whole task.")
    tool_result_characters: int = Field(
        default=8000, ge=200, description="What is kept of one tool result; the rest is cut."
    )
    same_failure: int = Field(
        default=3,
        ge=1,
        description="Times that the same call may fail in a row; then the task ends with outcome "
        "`tool`.",
    )


class BatchLimits(BaseModel):
    """What one batch may cost, over all the runs it takes; then it ends, and can be continued."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int | None = Field(default=None, ge=1, description="Of all prompts and replies.")
    tool_calls: int | None = Field(default=None, ge=1, description="Tool calls sent.")
    seconds: float | None = Field(default=None, gt=0, description="Time that its runs take.")


class AgentFields(BaseModel):
    """Instructions, tools, limits, output schema and what to do when the index is not true."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instructions: str = Field(min_length=1, description="The system prompt.")
    tool_calls: Literal["native", "structured"] = Field(
        default="native",
        description="native: the model server parses tool calls. structured: a grammar forces "
        "well-formed calls, for models that have no tool parser.",
    )
    tools: tuple[str, ...] = Field(default=(), description="Tools it may call; no others exist.")
    tool_servers: tuple[str, ...] = Field(
        default=(SEARCH_SERVER,),
        min_length=1,
        description="Tool servers that have them: folders of this name, and `search`, which is "
        "always there.",
    )
    bound_arguments: Mapping[str, Mapping[str, Any]] = Field(
        default_factory=dict,
        description="Per tool, arguments fixed here: the model neither sees nor sets them. "
        "A text such as `{question}` stands for that field of the task.",
    )
    must_consult: bool | None = Field(
        default=None,
        description="Call a tool with success before answering. Default: in structured mode, yes.",
    )
    output_schema: dict[str, Any] = Field(
        default_factory=lambda: dict(_ANSWER_SCHEMA),
        description="JSON Schema of the output, an object; citations are added to it.",
    )
    output_class: str | None = Field(
        default=None,
        description="Instead of output_schema: the path of a pydantic model, such as "
        "my_package.Answer. Its validators decide as well.",
    )
    graph: str | None = Field(
        default=None,
        description="Instead of the loop: the path of a function, such as my_package.build, that "
        "is called with a LangChain chat model and the list of tools, and returns a compiled "
        "LangGraph graph whose state has `messages`. Needs the extra `langgraph`.",
    )
    limits: Limits = Limits()
    temperature: float = Field(default=0.0, ge=0, le=2)
    repetition_penalty: float | None = Field(
        default=None,
        gt=0,
        le=2,
        description="Above 1 keeps small models from repeating themselves. An extension of vLLM; "
        "leave it out for servers that do not know it.",
    )
    batch_limits: BatchLimits = BatchLimits()
    wait_minutes: float = Field(
        default=10.0,
        gt=0,
        description="How long a batch that can do nothing else waits for what is down. Then its "
        "run ends and gives its GPU back; it is started again by itself.",
    )
    concurrency: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto",
        description="Tasks at once. auto: as many as the model server has room for, and "
        f"{DEFAULT} where it does not tell.",
    )
    index: str | None = Field(default=None, description="The index its search tools read.")
    on_stale_index: Literal["block", "label"] = Field(
        default="block",
        description="When the index is not shown to be true: start no batch, or start it and "
        "label every answer.",
    )

    @model_validator(mode="before")
    @classmethod
    def _schema_of_the_class(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or not (path := fields.get("output_class")):
            return fields
        schema = inlined(class_at(str(path), BaseModel, field="output_class").model_json_schema())
        # A spec that is made of another's fields has both, and they agree.
        if fields.get("output_schema", schema) != schema:
            raise ValueError("output_class gives the schema: leave output_schema out")
        return {**fields, "output_schema": schema}

    @field_validator("output_schema")
    @classmethod
    def _output_schema_is_usable(cls, schema: dict[str, Any]) -> dict[str, Any]:
        return check_output_schema(schema)

    @field_validator("graph")
    @classmethod
    def _graph_is_there(cls, path: str | None) -> str | None:
        if path is not None:
            if importlib.util.find_spec("langgraph") is None:
                raise UserError(
                    f"graph {path!r} needs LangGraph, which is not installed",
                    remedy="install it with `uv sync --extra langgraph`",
                )
            callable_at(path, field="graph")
        return path

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        for field, names in (("tools", self.tools), ("tool_servers", self.tool_servers)):
            if len(set(names)) != len(names):
                raise ValueError(f"{field} names one twice: {', '.join(names)}")
        unknown = set(self.bound_arguments) - set(self.tools)
        if unknown:
            raise ValueError(f"bound_arguments names tools not in tools: {sorted(unknown)}")
        # With several servers it shows only when they are asked which of them has it.
        only = len(self.tool_servers) == 1
        if self.index is None and only and any(map(self.reads_index, self.tools)):
            raise ValueError("tools has search or fetch, so index must name the index they read")
        if self.graph and self.tool_calls != "native":
            raise ValueError("a graph calls tools natively: leave tool_calls out")
        if self.must_consult and not self.tools:
            raise ValueError("must_consult needs at least one tool in tools")
        if self.consults and (self.limits.turns < 2 or self.limits.tool_calls < 1):
            raise ValueError("an agent that must consult a tool needs turns >= 2, tool_calls >= 1")
        return self

    def refusal(self, output: Mapping[str, Any]) -> str | None:
        """Why the pydantic model takes no such output, in words for the model; None: it does."""
        if self.output_class is None:
            return None
        try:
            class_at(self.output_class, BaseModel, field="output_class").model_validate(output)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            return f"{f'at {where}: ' if where else ''}{first['msg'][:300]}"
        return None

    @property
    def consults(self) -> bool:
        """Whether an answer is admitted only after a tool was called with success."""
        if self.must_consult is None:
            return self.tool_calls == "structured" and bool(self.tools)
        return self.must_consult

    def reads_index(self, tool: str, server: str | None = None) -> bool:
        """Whether it is a tool that reads the agent's index. ``server``: default, its first."""
        return (server or self.tool_servers[0], tool) in INDEX_TOOLS

    def bound(self, tool: str, server: str | None = None) -> dict[str, Any]:
        """Arguments of ``tool`` that this agent fixes; an index tool reads the agent's index."""
        own = dict(self.bound_arguments.get(tool, {}))
        return own | {"index": self.index} if self.reads_index(tool, server) else own

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides an answer: not how many tasks run at once, how much all of them may cost, or
        how long they wait.
        """
        batch = {"concurrency", "batch_limits", "wait_minutes"}
        return self.model_dump(mode="json", exclude=batch)

    @property
    def extensions(self) -> dict[str, Any]:
        """What a request carries beyond the OpenAI protocol; nothing where nothing is set."""
        if self.repetition_penalty is None:
            return {}
        return {"repetition_penalty": self.repetition_penalty}

    @property
    def task_fields(self) -> frozenset[str]:
        """Fields that every task must have, because a bound argument stands for them."""
        values = [value for bound in self.bound_arguments.values() for value in bound.values()]
        return frozenset(field for value in values if (field := task_field(value)))


class AgentSpec(AgentFields):
    """An agent with its name, which in YAML is the name of its folder."""

    name: str = Field(min_length=1, max_length=200)
