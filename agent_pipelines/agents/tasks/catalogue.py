"""Every kind of task source there is: a new kind is a new file beside this one and nothing else.

Belongs here: the type that YAML is validated against, and what a plain path stands for. Does not
belong here: any kind of source, or how kinds are found (`kinds.py`).
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema

from agent_pipelines.agents import tasks
from agent_pipelines.agents.tasks import TaskSourceConfig
from agent_pipelines.errors import UserError
from agent_pipelines.kinds import any_of, kinds_in
from agent_pipelines.locations import public


def _by_ending() -> Mapping[str, str]:
    """The kind that each ending of a path stands for."""
    return {
        suffix: kind.model_fields["kind"].annotation.__args__[0]  # type: ignore[union-attr]
        for kind in kinds_in(tasks, TaskSourceConfig)
        if issubclass(kind, TaskSourceConfig)
        for suffix in kind.suffixes
    }


def _of_path(value: Any) -> Any:
    """A plain path is a file of the kind that its ending says."""
    if not isinstance(value, str):
        return value
    known = _by_ending()
    shown = public(value)
    for ending, kind in known.items():
        if shown.lower().endswith(ending):
            return {"kind": kind, "url": value}
    raise ValueError(f"tasks {shown!r} ends in none of {', '.join(sorted(known))}")


class _OrPath:
    """Adds to the schema that a plain path will do."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        path = {"title": "a path or URL", "type": "string", "examples": ["tasks.jsonl"]}
        return {"anyOf": [path, handler(schema)]}


#: A path; or the union of all kinds, told apart by their `kind`; or a class elsewhere, by its path.
AnyTasks: Any = Annotated[any_of(tasks, TaskSourceConfig), BeforeValidator(_of_path), _OrPath()]


def source_at(path: str) -> TaskSourceConfig:
    """The kind of source that a plain path stands for.

    Raises:
        UserError: its ending says none.
    """
    try:
        found: TaskSourceConfig = TypeAdapter(AnyTasks).validate_python(path)
    except ValidationError as error:
        (fault,) = error.errors()
        raise UserError(
            fault["msg"].removeprefix("Value error, "), remedy="name a file that ends in one"
        ) from error
    return found
