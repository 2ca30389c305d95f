"""Passages a conversation has retrieved, and the citations an answer makes of them.

Belongs here: short refs (`c1`) for chunks, and which citation holds. Does not belong here:
searching, or whether a chunk is still in the index (`health`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from agent_pipelines.agents.tools import ToolResult

_FIELDS = {"chunk_id", "document_id", "content_hash", "uri", "title", "text"}


@dataclass(frozen=True)
class Citation:
    """A chunk an answer rests on. Not ``retrieved``: the model named what it never saw."""

    chunk_id: str
    document_id: str = ""
    content_hash: str = ""
    uri: str = ""
    title: str = ""
    sequence: int | None = None
    retrieved: bool = False

    def as_json(self) -> dict[str, Any]:
        """As it stands in the `answers` table."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The reverse of `as_json`."""
        return cls(**value)


class Retrieved:
    """What one conversation has retrieved so far. Refs are short: a chunk id is 20 tokens."""

    def __init__(self) -> None:
        self._by_ref: dict[str, Citation] = {}

    @property
    def refs(self) -> Sequence[str]:
        """Refs that may be cited, oldest first."""
        return list(self._by_ref)

    @property
    def sequence(self) -> int | None:
        """The oldest snapshot that anything retrieved was read from: the answer's claim."""
        known = [found.sequence for found in self._by_ref.values() if found.sequence is not None]
        return min(known, default=None)

    def admit(self, result: ToolResult, *, characters: int) -> str | None:
        """Take in a result of an index tool and return it as text for the model.

        Passages that do not fit into ``characters`` are not shown and so cannot be cited. None
        when the result holds no passages.
        """
        structured = result.structured or {}
        hits = structured.get("hits", [structured["hit"]] if "hit" in structured else None)
        if result.is_error or not isinstance(hits, list):
            return None
        if not all(isinstance(hit, Mapping) and hit.keys() >= _FIELDS for hit in hits):
            return None
        if not hits:
            return "Nothing was found. Try other words."
        shown: list[str] = []
        room = characters
        for hit in hits:
            if room <= 0:
                break
            text = f"[{self._ref(hit, structured.get('sequence'))}] {hit['title']}\n{hit['text']}"
            shown.append(text if len(text) <= room else f"{text[:room]} … (cut)")
            room -= len(text)
        return "\n\n".join(shown)

    def remember(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in what the journal says was retrieved before a restart."""
        for ref, citation in found.items():
            self._by_ref[ref] = Citation.from_json(citation)

    def since(self, count: int) -> dict[str, dict[str, Any]]:
        """What came after the first ``count`` passages, for the journal."""
        return {ref: self._by_ref[ref].as_json() for ref in self.refs[count:]}

    def resolve(self, cited: Sequence[str]) -> Sequence[Citation]:
        """Citations for the refs or chunk ids a model named, each once, in its order."""
        by_chunk = {found.chunk_id: found for found in self._by_ref.values()}
        found = [
            self._by_ref.get(name) or by_chunk.get(name) or Citation(chunk_id=name)
            for name in (name.strip("[] ") for name in cited)
        ]
        return list(dict.fromkeys(found))

    def _ref(self, hit: Mapping[str, Any], sequence: int | None) -> str:
        for ref, known in self._by_ref.items():
            if known.chunk_id == hit["chunk_id"]:
                return ref
        ref = f"c{len(self._by_ref) + 1}"
        self._by_ref[ref] = Citation(
            chunk_id=hit["chunk_id"],
            document_id=hit["document_id"],
            content_hash=hit["content_hash"],
            uri=hit["uri"],
            title=hit["title"],
            sequence=sequence,
            retrieved=True,
        )
        return ref
