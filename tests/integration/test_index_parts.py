"""What the tests of the engine rest on does what it says."""

from typing import Any

import numpy as np
import pytest

from tests.engine import (
    Crash,
    HashEmbedder,
    MemorySource,
    TrippingStore,
    document,
    make_index,
    wanted_chunks,
)


def test_the_hash_embedder_is_deterministic_and_gives_unit_vectors() -> None:
    one, other = HashEmbedder().embed(["a", "b"]), HashEmbedder().embed(["b", "a"])
    np.testing.assert_array_equal(one, other[::-1])
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("after", [False, True])
def test_a_tripping_store_trips_at_the_nth_call_and_only_there(after: bool) -> None:
    class Store:
        counted = 0

        def count(self) -> int:
            self.counted += 1
            return self.counted

    def trip() -> None:
        raise Crash

    inner: Any = Store()
    store = TrippingStore(inner, trip, "count", call=2, after=after)
    assert store.count() == 1
    with pytest.raises(Crash):
        store.count()
    assert store.count() == (3 if after else 2)


def test_a_section_is_a_chunk_of_its_own() -> None:
    index = make_index("any", MemorySource({"a": document("A", "one", "two")}), None, None)  # type: ignore[arg-type]
    pieces = [chunk.text for chunk in wanted_chunks(index, index.source).values()]  # type: ignore[arg-type]
    assert [piece.startswith(("# A", "## two")) for piece in pieces] == [True, True]
