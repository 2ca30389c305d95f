"""Which tool servers there are: the shipped ones, and anybody's own by the path to it.

Belongs here: finding a `TOOL_SERVER`, and which variables it reads. Does not belong here: any
server, or how it is served. A shipped server is a module of this package that exports one: adding
it is adding a file.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from pydantic_settings import BaseSettings

from agent_pipelines import toolservers
from agent_pipelines.errors import UserError
from agent_pipelines.toolservers.server import ToolServer

_EXPORT = "TOOL_SERVER"
_DISTRIBUTION = "agent-pipelines"


@dataclass(frozen=True)
class Variable:
    """One setting of a server, as the environment gives it."""

    name: str
    description: str
    required: bool


def shipped() -> dict[str, str]:
    """What each shipped server offers, by its name. One that cannot be imported says why."""
    found = {}
    for module in pkgutil.iter_modules(toolservers.__path__):
        try:
            server = getattr(_shipped_module(module.name), _EXPORT, None)
        except UserError as error:
            found[module.name] = f"Not available here: {error.message}"
        else:
            if isinstance(server, ToolServer):
                found[module.name] = sentence(server.summary)
    return found


def sentence(summary: str) -> str:
    """A server's summary as help puts it, however it is written."""
    return f"{summary[:1].upper()}{summary[1:].rstrip('.')}."


def find(name: str) -> ToolServer:
    """The shipped server of this name, or that of a module or file of the user's own.

    Raises:
        UserError: there is none, or it cannot be imported.
    """
    server = getattr(_module(name), _EXPORT, None)
    if not isinstance(server, ToolServer):
        if _is_own(name):
            raise UserError(
                f"{name} has no {_EXPORT}",
                remedy=f"let it export `{_EXPORT} = ToolServer(…)`, as a file does that "
                "`agent-pipelines tools new NAME` writes",
            )
        raise _unknown(name)
    return server


def variables(name: str) -> list[Variable]:
    """The settings that the server's module, or a module of its package, reads by a prefix.

    Raises:
        UserError: see `find`.
    """
    found = []
    for module in _parts(_module(name)):
        for _, settings in inspect.getmembers(module, inspect.isclass):
            if settings.__module__ != module.__name__ or not issubclass(settings, BaseSettings):
                continue
            prefix = settings.model_config.get("env_prefix", "")
            for field, info in settings.model_fields.items():
                needed = info.is_required() or info.default == ""
                description = " ".join((info.description or "").split())
                if not needed and info.default is not None:
                    description += f" Default: {_shown(info.default)}."
                found.append(Variable(f"{prefix}{field}".upper(), description.strip(), needed))
    return found


def _parts(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for part in pkgutil.iter_modules(getattr(module, "__path__", [])):
        # What needs a package that is not there is of no use here either.
        with contextlib.suppress(ImportError):
            yield importlib.import_module(f"{module.__name__}.{part.name}")


def _shown(default: object) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _module(name: str) -> ModuleType:
    if name.endswith(".py") or "/" in name:
        return _file(Path(name).resolve())
    if _is_own(name):
        # As `python -m` would find it.
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)
        return _imported(name)
    known = {module.name for module in pkgutil.iter_modules(toolservers.__path__)}
    if name not in known:
        raise _unknown(name)
    return _shipped_module(name)


def _is_own(name: str) -> bool:
    return "." in name or "/" in name


def _unknown(name: str) -> UserError:
    return UserError(
        f"there is no tool server {name!r}",
        remedy=f"use {', '.join(sorted([*shipped(), 'search']))}; or name a file or a module of "
        f"your own that exports {_EXPORT}, such as my_server.py or my_package.my_server",
    )


@cache
def _file(path: Path) -> ModuleType:
    # Under a name that no module has which it might import.
    spec = importlib.util.spec_from_file_location(f"tool_server_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(
            f"there is no Python file {path}",
            remedy="name one that exports TOOL_SERVER; `agent-pipelines tools new NAME` writes one",
        )
    # Its neighbours can be imported, as when it is run as a program.
    if (folder := str(path.parent)) not in sys.path:
        sys.path.insert(0, folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise _broken(str(path), error) from error
    return module


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UserError(
                f"there is no Python module {name}",
                remedy="name one that can be imported from here and exports TOOL_SERVER",
            ) from error
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> UserError:
    return UserError(
        f"{name} cannot be imported: {type(error).__name__}: {error}",
        remedy="put that right; `python` with the file's name shows where it is",
    )


def _shipped_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{toolservers.__name__}.{name}")
    except ModuleNotFoundError as error:
        raise not_installed(name, error) from error


def not_installed(name: str, error: ModuleNotFoundError) -> UserError:
    """What to say when a shipped server lacks a package that not everybody installs."""
    extras = importlib.metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or []
    what = f"{_DISTRIBUTION}[{name}]" if name in extras else str(error.name).partition(".")[0]
    return UserError(
        f"tool server {name!r} needs the package {error.name!r}, which is not installed",
        remedy=f"install it: python3 -m pip install '{what}'",
    )
