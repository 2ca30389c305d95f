"""JSON Schemas as a grammar can follow them: what one turn of a conversation may contain.

Belongs here: pure functions from schema to schema, and validation against one. Does not belong
here: which turn is which (`conversation.py`).

Kept to what structured outputs of vLLM (xgrammar) follow: object, array, enum, anyOf, lengths.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

#: Small models repeat themselves until they are stopped: strings get a length where none is set.
_ARGUMENT_CHARACTERS = 120
_OUTPUT_CHARACTERS = 600
_CITATIONS = 5

#: Keys of a turn that are the harness's own, so an output schema cannot use them.
_RESERVED = ("citations", "tool", "arguments")


def check_output_schema(schema: Schema) -> Schema:
    """The schema, self-contained.

    Raises:
        ValueError: it is not one that an agent's answer can have.
    """
    from jsonschema import (  # type: ignore[import-untyped]
        Draft202012Validator,
        SchemaError,
    )

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"output_schema is not a JSON Schema: {error.message}") from error
    if schema.get("type") != "object" or not schema.get("properties"):
        raise ValueError("output_schema must have type: object and at least one property")
    taken = [key for key in _RESERVED if key in schema["properties"]]
    if taken:
        raise ValueError(f"output_schema must leave the properties {taken} to the harness")
    return inlined(schema)


def inlined(schema: Mapping[str, Any]) -> Schema:
    """The schema with its local references replaced by what they refer to.

    So that it can become a part of another schema, where `#/$defs` would point elsewhere.

    Raises:
        ValueError: a reference is recursive or leaves the schema.
    """
    definitions = {
        f"#/{section}/{name}": definition
        for section in ("$defs", "definitions")
        for name, definition in schema.get(section, {}).items()
    }

    def resolve(node: Any, inside: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [resolve(item, inside) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" not in node:
            return {key: resolve(value, inside) for key, value in node.items()}
        target = node["$ref"]
        if target in inside or target not in definitions:
            raise ValueError(f"the reference {target!r} is recursive or leaves the schema")
        siblings = {key: value for key, value in node.items() if key != "$ref"}
        resolved: Schema = resolve(definitions[target], (*inside, target))
        return resolved | resolve(siblings, inside)

    body = {key: value for key, value in schema.items() if key not in ("$defs", "definitions")}
    result: Schema = resolve(body, ())
    return result


def without(schema: Mapping[str, Any], arguments: Sequence[str]) -> Schema:
    """An input schema without some of its arguments: those the model neither sees nor sets."""
    result = copy.deepcopy(dict(schema))
    result["properties"] = {
        name: value for name, value in result.get("properties", {}).items() if name not in arguments
    }
    result["required"] = [name for name in result.get("required", []) if name not in arguments]
    return result


def call_schema(tool: str, input_schema: Mapping[str, Any]) -> Schema:
    """A turn that calls one tool, for a model whose calls are forced by a grammar."""
    return {
        "type": "object",
        "properties": {
            "tool": {"type": "string", "enum": [tool]},
            "arguments": _bounded(input_schema, _ARGUMENT_CHARACTERS),
        },
        "required": ["tool", "arguments"],
        "additionalProperties": False,
    }


def answer_schema(output_schema: Mapping[str, Any], refs: Sequence[str]) -> Schema:
    """A turn that answers: the output and, where passages were retrieved, which it rests on."""
    schema = _bounded(output_schema, _OUTPUT_CHARACTERS)
    if refs:
        schema["properties"]["citations"] = {
            "type": "array",
            "items": {"type": "string", "enum": list(refs)},
            "minItems": 1,
            "maxItems": min(_CITATIONS, len(refs)),
        }
        schema["required"] = [*schema.get("required", []), "citations"]
    return schema


def one_of(branches: Sequence[Schema]) -> Schema:
    """A turn that is any one of these."""
    return branches[0] if len(branches) == 1 else {"anyOf": list(branches)}


def parsed(text: str) -> Any:
    """The JSON value of a reply; None when it is none. Models like to wrap it in a code fence."""
    body = text.strip()
    if body.startswith("```"):
        body = body.removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        # NaN and the infinities are no JSON; Python alone reads and writes them.
        return json.loads(body, parse_constant=_no_json)
    except ValueError:  # a whole number of thousands of digits, too
        return None


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def problem(value: Any, output_schema: Mapping[str, Any], *, cites: bool) -> str | None:
    """Why a value is not an admissible answer, in words for the model; None when it is one.

    A citation may name anything here: what was not retrieved is marked, not refused.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match  # type: ignore[import-untyped]

    if not isinstance(value, dict):
        return "it is not a JSON object"
    output = {key: item for key, item in value.items() if key != "citations"}
    error = best_match(Draft202012Validator(output_schema).iter_errors(output))
    if error is not None:
        return f"at {error.json_path}: {error.message[:300]}"
    citations = value.get("citations", [])
    if not isinstance(citations, list) or not all(isinstance(ref, str) for ref in citations):
        return "citations must be a list of strings"
    if cites and not citations:
        return "citations must name at least one passage that the answer rests on"
    return None


def _bounded(schema: Mapping[str, Any], characters: int) -> Schema:
    """The schema with an end to every string and no room for properties it does not name."""

    def bound(node: Any) -> Any:
        if isinstance(node, list):
            return [bound(item) for item in node]
        if not isinstance(node, dict):
            return node
        result = {
            # Names of properties are not keywords, even where they look like them.
            key: {name: bound(item) for name, item in value.items()}
            if key == "properties"
            else bound(value)
            for key, value in node.items()
            if key not in ("title", "default", "description", "examples")
        }
        if result.get("type") == "string" and not {"enum", "const", "maxLength"} & set(result):
            result["maxLength"] = characters
        if result.get("type") == "object" and "properties" in result:
            result.setdefault("additionalProperties", False)
        return result

    bounded: Schema = bound(dict(schema))
    bounded.setdefault("properties", {})
    return bounded
