"""Which copy of an object is the odd one."""

from dataclasses import replace

import numpy as np
import pytest

from agent_pipelines.indexing.chunking import Chunk, content_hash_of
from agent_pipelines.indexing.ledger import Entry
from agent_pipelines.indexing.partition import bucket_of
from agent_pipelines.indexing.replicas import odd_copies
from agent_pipelines.indexing.store import Stored

HASH = content_hash_of("text", "title", "uri", {})
CHUNK = Chunk("id", "d.md", 0, HASH, "title", "uri", "text", {})
RIGHT = Stored(CHUNK, "spec", bucket_of("d.md"), np.array([1, 0], np.float32))
ALTERED = replace(RIGHT, chunk=replace(CHUNK, text="nobody's"))
TURNED = replace(RIGHT, vector=np.array([0, 1], np.float32))
ENTRY = Entry("d.md", 0, HASH, "present")


@pytest.mark.parametrize(
    ("held", "odd"),
    [
        ((RIGHT, RIGHT, RIGHT), {}),
        ((RIGHT, None, RIGHT), {1: "missing"}),
        ((None, None, RIGHT), {0: "missing", 1: "missing"}),
        # What most hold is not right for that: the ledger says what is.
        ((ALTERED, RIGHT, ALTERED), {0: "other content", 2: "other content"}),
        # Of vectors the ledger knows nothing.
        ((RIGHT, TURNED, RIGHT), {1: "another vector or spec"}),
        ((ALTERED, None), {1: "missing"}),
        # That all are wrong alike is for other signals to say.
        ((ALTERED, ALTERED), {}),
        ((None, None), {}),
    ],
)
def test_the_odd_copy_is_named_with_its_fault(
    held: tuple[Stored | None, ...], odd: dict[int, str]
) -> None:
    found = odd_copies({str(node): copy for node, copy in enumerate(held)}, ENTRY)
    assert found == {str(node): fault for node, fault in odd.items()}


def test_of_what_was_deleted_no_copy_is_right() -> None:
    assert odd_copies({"a": None, "b": RIGHT}, None) == {"b": "still there"}
    assert odd_copies({"a": None, "b": None}, None) == {}
