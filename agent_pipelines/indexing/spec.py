"""Everything that decides what a vector means, and its fingerprint.

Belongs here: what a generation is built under. Does not belong here: the backend that computes
vectors, or anything that can change without making stored vectors mean something else.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from agent_pipelines.indexing.chunking import ChunkerSpec
from agent_pipelines.indexing.embedding import EmbedderIdentity

#: Raised when the same bytes become other text, through our code or a new version of a library,
#: and when the stored properties change.
EXTRACTOR_VERSION = 2
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Spec:
    """What a generation is built under; equal fingerprints mean comparable vectors."""

    chunker: ChunkerSpec
    embedder: EmbedderIdentity

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, as stored beside the generation."""
        return {"extractor": EXTRACTOR_VERSION, "schema": SCHEMA_VERSION, **asdict(self)}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON form, in hex."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
