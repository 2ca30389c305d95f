"""The two ways to put an agent's turns to a model: native tool calls, or a grammar.

Belongs here: what a mode sends and how it reads a reply. Does not belong here: which turns are
admitted, or what a call or an answer leads to (`conversation.py`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent_pipelines.agents.model import Message
from agent_pipelines.agents.schemas import answer_schema, call_schema, one_of, parsed
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tools import Toolbox


@dataclass(frozen=True)
class Call:
    """A tool call the model asks for. ``arguments`` is None when they were no JSON object."""

    call_id: str
    tool: str
    arguments: Mapping[str, Any] | None

    @property
    def digest(self) -> str:
        """The same for calls that are the same but for their id."""
        asked = json.dumps([self.tool, self.arguments], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Admitted:
    """What the next turn may be."""

    calls: bool
    answer: bool


class Mode(Protocol):
    """How turns are put to a model and read back."""

    def system(self) -> str:
        """What the model is told beyond the agent's instructions."""
        ...

    def options(self, admitted: Admitted, refs: Sequence[str]) -> Mapping[str, Any]:
        """What a request carries beside the messages, so that only admitted turns come back."""
        ...

    def calls(self, reply: Message) -> Sequence[Call]:
        """The tool calls in a reply; none means that it is an answer."""
        ...

    def result(self, call: Call, text: str) -> Message:
        """The message that brings a tool's result to the model."""
        ...


def mode_of(spec: AgentSpec, toolbox: Toolbox, prompt: str) -> Mode:
    """The mode an agent asks for, for a task with this prompt."""
    if spec.tool_calls == "native":
        return NativeMode(spec, toolbox)
    return StructuredMode(spec, toolbox, prompt)


class NativeMode:
    """Tool calls are parsed by the model server; a schema constrains a turn that must answer."""

    def __init__(self, spec: AgentSpec, toolbox: Toolbox) -> None:
        self._spec = spec
        self._tools = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.schema,
                },
            }
            for tool in toolbox
        ]

    def system(self) -> str:
        """The form of the answer; without a grammar on every turn the model has to be told."""
        schema = json.dumps(self._spec.output_schema, ensure_ascii=False)
        cite = (
            ' Add the key "citations": a list of the refs, such as "c1", of the passages that the'
            " answer rests on."
            if self._spec.index
            else ""
        )
        return f"Answer with one JSON object that matches this JSON Schema: {schema}{cite}"

    def options(self, admitted: Admitted, refs: Sequence[str]) -> Mapping[str, Any]:
        """Tools while calls are admitted, else the answer's schema: the two exclude each other."""
        if admitted.calls:
            return {
                "tools": self._tools,
                "tool_choice": "auto" if admitted.answer else "required",
            }
        return _response_format(answer_schema(self._spec.output_schema, refs))

    def calls(self, reply: Message) -> Sequence[Call]:
        """The calls that the server parsed."""
        return [
            Call(
                call["id"],
                call["function"]["name"],
                _object(parsed(call["function"]["arguments"] or "{}")),
            )
            for call in reply.get("tool_calls", [])
        ]

    def result(self, call: Call, text: str) -> Message:
        """A tool message, joined to its call by id."""
        return {"role": "tool", "tool_call_id": call.call_id, "content": text}


class StructuredMode:
    """A grammar admits exactly the turns that are allowed, so even a tiny model keeps the form."""

    def __init__(self, spec: AgentSpec, toolbox: Toolbox, prompt: str) -> None:
        self._spec = spec
        self._toolbox = toolbox
        self._prompt = prompt

    def system(self) -> str:
        """Short: the grammar carries the rules, and a tiny model loses itself in long prompts."""
        if not self._toolbox:
            return ""
        named = "\n".join(f"- {tool.name}: {tool.description}" for tool in self._toolbox)
        return f"You can call these tools:\n{named}"

    def options(self, admitted: Admitted, refs: Sequence[str]) -> Mapping[str, Any]:
        """One schema per admitted turn."""
        branches = (
            [call_schema(tool.name, tool.schema) for tool in self._toolbox]
            if admitted.calls
            else []
        )
        if admitted.answer:
            branches.append(answer_schema(self._spec.output_schema, refs))
        return _response_format(one_of(branches))

    def calls(self, reply: Message) -> Sequence[Call]:
        """At most one: the reply itself, when it names a tool."""
        value = parsed(reply["content"])
        if not isinstance(value, dict) or "tool" not in value:
            return []
        return [Call("", str(value["tool"]), _object(value.get("arguments")))]

    def result(self, call: Call, text: str) -> Message:
        """A user message: templates of small models know no tool role.

        It ends with the task, which a small model has lost sight of after a page of text.
        """
        content = f"Result of {call.tool}:\n\n{text}\n\nFrom this, answer: {self._prompt}"
        return {"role": "user", "content": content}


def _object(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, dict) else None


def _response_format(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "turn", "schema": schema},
        }
    }
