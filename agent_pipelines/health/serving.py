"""The way to the readers where no search tool server runs: the same search, in this process.

Belongs here: `ServingPath` without a server. Does not belong here: the path over MCP
(`resources/tool_path.py`) or what a probe concludes (`probes.py`).
"""

from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.search import IndexSearcher, SearchResult
from agent_pipelines.indexing.serving import Sighting
from agent_pipelines.indexing.store import Stored


class InThisProcess:
    """Implements `ServingPath`."""

    name = "in this process (no search tool server runs)"

    def __init__(self, index: Index) -> None:
        self._searcher = IndexSearcher({index.name: index})

    def nearest(self, index: str, wanted: Stored, *, limit: int, load_model: bool) -> Sighting:
        """See `ServingPath`; `wanted` has a vector."""
        if load_model:
            found = self._searcher.search(index, wanted.chunk.text, limit=limit, alpha=1)
        else:
            assert wanted.vector is not None
            found = self._searcher.search_near(
                index, wanted.chunk.text, wanted.vector, limit=limit, alpha=1
            )
        return _sighting(found)

    def fetch(self, index: str, chunk_id: str) -> str | None:
        """See `ServingPath`."""
        return _sighting(self._searcher.fetch(index, chunk_id)).chunks.get(chunk_id)


def _sighting(found: SearchResult) -> Sighting:
    return Sighting(found.sequence, {hit.chunk_id: hit.content_hash for hit in found.hits})
