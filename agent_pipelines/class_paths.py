"""A user's own class or function, named in YAML by where it is on the Python path.

Belongs here: finding it. Does not belong here: what is made of it.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

_Kind = TypeVar("_Kind")


def class_at(path: str, kind: type[_Kind], *, field: str) -> type[_Kind]:
    """The class at a path such as ``my_package.my_module.MyClass``.

    Args:
        path: module and class.
        kind: what it must be a subclass of.
        field: that the path was given in, for people.

    Raises:
        ValueError: it cannot be imported, is no such class, or is abstract.
    """
    found = _found(path, field)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ValueError(f"{field} {path!r} is no subclass of {kind.__module__}.{kind.__name__}")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))  # type: ignore[attr-defined]
        raise ValueError(f"{field} {path!r} is abstract: it does not define {missing}")
    return found


def callable_at(path: str, *, field: str) -> Callable[..., Any]:
    """The function, or the class, at a path such as ``my_package.my_module.build``.

    Raises:
        ValueError: it cannot be imported, or cannot be called.
    """
    found = _found(path, field)
    if not callable(found):
        raise ValueError(f"{field} {path!r} is neither a function nor a class")
    return found  # type: ignore[no-any-return]


def _found(path: str, field: str) -> Any:
    module, _, name = path.rpartition(".")
    if not module:
        raise ValueError(f"{field} {path!r} names no module: write my_package.my_module.name")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # a user's module may raise anything
        raise ValueError(
            f"{field} {path!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if found is None:
        raise ValueError(f"{field} {path!r} is not there: the module {module} has no {name}")
    return found
