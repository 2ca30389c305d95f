"""The way to the readers that probes take, as the engine knows it.

Belongs here: what a probe may ask, and what it is told. Does not belong here: a way itself (the
search tool server, `resources/tool_path.py`; this process, `health/serving.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from agent_pipelines.indexing.store import Stored


@dataclass(frozen=True)
class Sighting:
    """What readers are given, as far as a probe has to know it: no texts."""

    sequence: int
    chunks: Mapping[str, str]
    """Content hash by chunk id, best first."""


class ServingPath(Protocol):
    """The way to the readers that probes take: the search tool server, or this process.

    Both raise `UnavailableError` when nothing can be said, and `UserError` when readers are
    refused for what they ask: there is no such index, or it was never committed.
    """

    @property
    def name(self) -> str:
        """What was probed, for people."""
        ...

    def nearest(self, index: str, wanted: Stored, *, limit: int, load_model: bool) -> Sighting:
        """The nearest chunks by meaning alone: words find a chunk whose vector is lost.

        Without `load_model` this process embeds nothing: where no one else does, the vector that
        is stored takes the place of the query's.
        """
        ...

    def fetch(self, index: str, chunk_id: str) -> str | None:
        """The content hash of the chunk with this id; None where readers get none."""
        ...
