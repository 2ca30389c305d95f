"""A folder of assets → components, each folder on its own.

Belongs here: finding and loading what `assets/` holds, so that one broken folder is reported and
never unloads the others. Does not belong here: binding resources (`definitions.py`).
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import dagster as dg
from pydantic import ValidationError

from agent_pipelines.components.agent import AgentComponent
from agent_pipelines.components.index import IndexComponent
from agent_pipelines.components.llm import LlmComponent
from agent_pipelines.components.tool_server import ToolServerComponent
from agent_pipelines.errors import UserError

_C = TypeVar("_C", bound=dg.Component)

#: Where the assets that come with this program lie.
PACKAGED_ASSETS = Path(__file__).parent.parent / "assets"


@dataclass(frozen=True)
class Loaded:
    """What a folder of assets holds."""

    folder: Path
    indexes: Mapping[str, IndexComponent]
    agents: Mapping[str, AgentComponent]
    tool_servers: Mapping[str, ToolServerComponent]
    llms: Mapping[str, LlmComponent]
    definitions: dg.Definitions
    broken: Mapping[str, str]
    """Why a folder could not be loaded, by its name."""

    def index(self, name: str) -> IndexComponent:
        """The index of that name.

        Raises:
            UserError: there is none, or its folder is broken.
        """
        return self._one("index", self.indexes, name)

    def agent(self, name: str) -> AgentComponent:
        """The agent of that name.

        Raises:
            UserError: there is none, or its folder is broken.
        """
        return self._one("agent", self.agents, name)

    def embedded_llm(self, agents: Iterable[str]) -> bool:
        """Whether some of these agents use the embedded vLLM, where LLM_BASE_URL names no other."""
        named = {self.agents[agent].config.llm for agent in agents}
        return any(llm not in self.llms or self.llms[llm].embedded for llm in named)

    def _one(self, kind: str, known: Mapping[str, _C], name: str) -> _C:
        if name in known:
            return known[name]
        if name in self.broken:
            raise UserError(
                f"{kind} {name!r} cannot be loaded: {self.broken[name]}",
                remedy=f"correct {self.folder / name / 'defs.yaml'}",
            )
        raise UserError(
            f"there is no {kind} {name!r} in {self.folder}",
            remedy=f"use one of: {', '.join(known) or f'none; no {kind} is defined there'}",
        )


def load_assets(folder: Path) -> Loaded:
    """Load every folder below `folder` that has a defs.yaml or Python definitions.

    Raises:
        UserError: `folder` does not exist or holds nothing.
    """
    if not folder.is_dir():
        raise UserError(
            f"the assets folder {folder} does not exist",
            remedy="name an existing folder with --assets or AGENT_PIPELINES_ASSETS",
        )
    children = sorted(p for p in folder.iterdir() if p.is_dir() and _has_definitions(p))
    if not children:
        raise UserError(
            f"no folder below {folder} has a defs.yaml",
            remedy="add one, such as DIR/docs/defs.yaml; the README shows ten lines that do",
        )
    broken: dict[str, str] = {}
    trees: dict[str, dg.ComponentTree] = {}
    components: dict[str, dg.Component] = {}
    definitions: list[dg.Definitions] = []
    taken: dict[str, str] = {}

    def attempt(child: Path, step: Callable[[Path], object]) -> None:
        try:
            step(child)
        except Exception as error:  # a user's Python may raise anything
            components.pop(child.name, None)
            broken[child.name] = _cause(error)

    def load(child: Path) -> None:
        trees[child.name] = _tree(child)
        components[child.name] = trees[child.name].load_component(child)

    def build(child: Path) -> None:
        component = components[child.name]
        if isinstance(component, AgentComponent):
            component.bind(
                _of(components, IndexComponent),
                _of(components, ToolServerComponent),
                _of(components, LlmComponent),
            )
        built = trees[child.name].build_defs_at_path(child)
        for name in _names(built):
            if taken.setdefault(name, child.name) != child.name:
                raise UserError(
                    f"{name} is defined in {taken[name]} already",
                    remedy="rename one of the two",
                )
        definitions.append(built)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        for child in children:
            attempt(child, load)
        for child in children:
            if child.name in components:
                attempt(child, build)
    definitions += [_broken_definitions(name, reason) for name, reason in broken.items()]
    return Loaded(
        folder,
        indexes=_of(components, IndexComponent),
        agents=_of(components, AgentComponent),
        tool_servers=_of(components, ToolServerComponent),
        llms=_of(components, LlmComponent),
        definitions=dg.Definitions.merge(*definitions),
        broken=broken,
    )


def _has_definitions(folder: Path) -> bool:
    if folder.name.startswith((".", "__")):
        return False
    return (folder / "defs.yaml").is_file() or any(folder.glob("*.py"))


def _tree(folder: Path) -> dg.ComponentTree:
    # A tree of its own per folder: Dagster's tree of the whole would fail as a whole. The folder
    # need not be importable where it lies, so it becomes a module of its own.
    module = ModuleType(f"agent_pipelines_assets_{folder.name}")
    module.__file__ = None
    module.__path__ = [str(folder)]
    sys.modules[module.__name__] = module
    return dg.ComponentTree.from_module(module, folder.parent)


def _names(definitions: dg.Definitions) -> Iterator[str]:
    """What may be there only once; Dagster would refuse the whole code location."""
    for asset in definitions.assets or ():
        keys = getattr(asset, "keys", None) or [getattr(asset, "key", None)]
        yield from (f"asset {key.to_user_string()}" for key in keys if key)
    for kind in ("jobs", "schedules", "sensors"):
        yield from (f"{kind[:-1]} {found.name}" for found in getattr(definitions, kind) or ())


def _of(components: Mapping[str, dg.Component], kind: type[_C]) -> dict[str, _C]:
    return {name: found for name, found in components.items() if isinstance(found, kind)}


def _broken_definitions(name: str, reason: str) -> dg.Definitions:
    """Something to see in the UI where an index or agent should be."""
    spec = dg.AssetSpec(
        dg.AssetKey([name, "broken"]),
        group_name="broken",
        description=f"assets/{name} could not be loaded:\n\n```\n{reason}\n```",
        kinds={"error"},
    )
    return dg.Definitions(assets=[spec])


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, UserError):
        return f"{error.message}; {error.remedy}"
    if isinstance(error, ValidationError):
        # Each `loc` is Dagster's: the field, the file and the line.
        return "; ".join(
            f"{' '.join(map(str, fault['loc']))}: "
            + ("there is no such field" if fault["type"] == "extra_forbidden" else fault["msg"])
            for fault in error.errors()
        )
    return str(error) or type(error).__name__
