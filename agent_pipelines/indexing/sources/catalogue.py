"""Every kind of source there is, found by looking: a new kind is a new file and nothing else.

Belongs here: the type that YAML is validated against, and sources that live in other packages. Does
not belong here: any kind of source.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import CoreSchema

from agent_pipelines.class_paths import class_at
from agent_pipelines.indexing import sources
from agent_pipelines.indexing.sources import SourceConfig


def _kinds() -> list[type[SourceConfig]]:
    here = f"{sources.__name__}."
    for module in pkgutil.iter_modules(sources.__path__, here):
        if module.name != __name__:
            importlib.import_module(module.name)
    # Those of other packages have no name but their class's path.
    found = [kind for kind in SourceConfig.__subclasses__() if kind.__module__.startswith(here)]
    return sorted(found, key=lambda kind: kind.__name__)


def _by_class_path(value: Any, known: ValidatorFunctionWrapHandler) -> Any:
    """A `kind` with a dot in it is the path of a class; every other one is told by `known`."""
    path = value.get("kind") if isinstance(value, Mapping) else None
    if not isinstance(path, str) or "." not in path:
        return known(value)
    found = class_at(path, SourceConfig, field="kind")  # type: ignore[type-abstract]
    own = {
        name: each for name, each in value.items() if name != "kind" or name in found.model_fields
    }
    return found.model_validate(own)


class _OrClassPath:
    """Adds to the schema of the known kinds that a class path is one, too, with any fields."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        other = {
            "title": "a class on the Python path",
            "description": "A subclass of agent_pipelines.indexing.sources.SourceConfig, "
            "such as my_package.my_module.MySource; the other keys are its fields.",
            "type": "object",
            "properties": {"kind": {"type": "string", "pattern": r"\."}},
            "required": ["kind"],
        }
        return {"anyOf": [handler(schema), other]}


#: The union of all kinds, told apart by their `kind`; or a class elsewhere, by its path.
AnySource: Any = Annotated[
    reduce(or_, _kinds()),
    Field(discriminator="kind"),
    WrapValidator(_by_class_path),
    _OrClassPath(),
]
