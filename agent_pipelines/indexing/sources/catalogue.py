"""Every kind of source there is, found by looking: a new kind is a new file and nothing else.

Belongs here: the type that YAML is validated against. Does not belong here: any kind of source.
"""

import importlib
import pkgutil
from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import Field

from agent_pipelines.indexing import sources
from agent_pipelines.indexing.sources import SourceConfig


def _kinds() -> list[type[SourceConfig]]:
    for module in pkgutil.iter_modules(sources.__path__, f"{sources.__name__}."):
        if module.name != __name__:
            importlib.import_module(module.name)
    return sorted(SourceConfig.__subclasses__(), key=lambda kind: kind.__name__)


#: The union of all kinds, told apart by their `kind`.
AnySource: Any = Annotated[reduce(or_, _kinds()), Field(discriminator="kind")]
