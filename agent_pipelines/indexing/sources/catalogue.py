"""Every kind of source there is: a new kind is a new file beside this one and nothing else.

Belongs here: the type that YAML is validated against. Does not belong here: any kind of source, or
how kinds are found (`kinds.py`).
"""

from typing import Any

from agent_pipelines.indexing import sources
from agent_pipelines.indexing.sources import SourceConfig
from agent_pipelines.kinds import any_of

#: The union of all kinds, told apart by their `kind`; or a class elsewhere, by its path.
AnySource: Any = any_of(sources, SourceConfig)
