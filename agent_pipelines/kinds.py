"""Kinds of something that YAML names, found by looking: a new kind is a new file and nothing else.

Belongs here: the type that such YAML is validated against, and kinds that live in other packages.
Does not belong here: any kind of anything.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from types import ModuleType
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    Field,
    GetJsonSchemaHandler,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema

from agent_pipelines.class_paths import class_at


def kinds_in(package: ModuleType, base: type[BaseModel]) -> Sequence[type[BaseModel]]:
    """Every subclass of `base` that stands in a file of the package and has a `kind`."""
    here = f"{package.__name__}."
    for module in pkgutil.iter_modules(package.__path__, here):
        importlib.import_module(module.name)
    # Those of other packages have no name but their class's path.
    found = [
        kind
        for kind in _below(base)
        if kind.__module__.startswith(here) and "kind" in kind.model_fields
    ]
    return sorted(found, key=lambda kind: kind.__name__)


def any_of(package: ModuleType, base: type[BaseModel]) -> Any:
    """The union of all kinds, told apart by their `kind`; or a class elsewhere, by its path."""
    return Annotated[
        reduce(or_, kinds_in(package, base)),
        Field(discriminator="kind"),
        WrapValidator(_ByClassPath(base)),
        _OrClassPath(base),
    ]


def _below(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _below(kind)


@dataclass(frozen=True)
class _ByClassPath:
    """A `kind` with a dot in it is the path of a class; every other one is told by `known`."""

    base: type[BaseModel]

    def __call__(self, value: Any, known: ValidatorFunctionWrapHandler) -> Any:
        path = value.get("kind") if isinstance(value, Mapping) else None
        if not isinstance(path, str) or "." not in path:
            return known(value)
        found = class_at(path, self.base, field="kind")
        own = {
            name: each
            for name, each in value.items()
            if name != "kind" or name in found.model_fields
        }
        return found.model_validate(own)


@dataclass(frozen=True)
class _OrClassPath:
    """Adds to the schema of the known kinds that a class path is one, too, with any fields."""

    base: type[BaseModel]

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        other = {
            "title": "a class on the Python path",
            "description": f"A subclass of {_path(self.base)}, such as "
            "my_package.my_module.MySource; the other keys are its fields.",
            "type": "object",
            "properties": {"kind": {"type": "string", "pattern": r"\."}},
            "required": ["kind"],
        }
        return {"anyOf": [handler(schema), other]}


def _path(base: type[BaseModel]) -> str:
    return f"{base.__module__}.{base.__name__}"
