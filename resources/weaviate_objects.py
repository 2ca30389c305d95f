"""Chunks as Weaviate's objects, and back.

Belongs here: properties by name, and what an object that somebody else wrote is taken for. Does not
belong here: the schema or any call (`weaviate.py`, `weaviate_replicas.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agent_pipelines.indexing.chunking import Chunk
from agent_pipelines.indexing.partition import bucket_of
from agent_pipelines.indexing.store import Stored

PROPERTIES = (
    *("document_id", "content_hash", "spec", "title", "uri", "text", "metadata", "position"),
    *("bucket",),
)

#: The one vector of each object, by Weaviate's name.
VECTOR = "default"


def properties_of(chunk: Chunk, fingerprint: str) -> dict[str, Any]:
    """What is written of a chunk."""
    return {
        "document_id": chunk.document_id,
        "content_hash": chunk.content_hash,
        "spec": fingerprint,
        "title": chunk.title,
        "uri": chunk.uri,
        "text": chunk.text,
        "metadata": [f"{key}={value}" for key, value in sorted(chunk.metadata.items())],
        "position": chunk.position,
        "bucket": bucket_of(chunk.document_id),
    }


def stored_of(
    id_: str, found: Mapping[str, Any], vectors: Mapping[str, Sequence[float]] | None
) -> Stored:
    """The chunk that an object holds.

    One that somebody else wrote may lack any property: it must show up as wrong, not raise.
    """
    properties = {name: found.get(name) or "" for name in PROPERTIES}
    vector = vectors.get(VECTOR) if vectors else None
    pairs = [str(pair).partition("=") for pair in properties["metadata"] or ()]
    return Stored(
        chunk=Chunk(
            id=id_,
            document_id=properties["document_id"],
            position=int(properties["position"] or 0),
            content_hash=properties["content_hash"],
            title=properties["title"],
            uri=properties["uri"],
            text=properties["text"],
            metadata={key: value for key, _, value in pairs},
        ),
        fingerprint=properties["spec"],
        bucket=int(properties["bucket"] or 0),
        vector=np.asarray(vector, np.float32) if vector else None,
    )
