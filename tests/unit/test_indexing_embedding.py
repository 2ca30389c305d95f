"""Which texts are embedded together, and that their vectors come back as they were asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pipelines.indexing.embedding import EmbeddingError, Vectors, embed_checked, packs
from tests.engine import HashEmbedder


@given(
    lengths=st.lists(st.integers(1, 600), max_size=60),
    budget=st.integers(1, 2_000),
)
def test_packs_hold_every_text_once_longest_first_as_many_as_the_budget_allows(
    lengths: list[int], budget: int
) -> None:
    made = list(packs(lengths, budget))
    assert sorted(index for pack in made for index in pack) == list(range(len(lengths)))
    in_order = [lengths[index] for pack in made for index in pack]
    assert in_order == sorted(lengths, reverse=True)
    for pack in made:
        assert len(pack) == 1 or len(pack) * lengths[pack[0]] <= budget
    for pack in made[:-1]:
        assert (len(pack) + 1) * lengths[pack[0]] > budget


class Watched(HashEmbedder):
    """Keeps what it was asked for in one call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []

    def embed(self, texts: list[str]) -> Vectors:  # type: ignore[override]
        self.calls.append(texts)
        return super().embed(texts)


WATCHED = Watched()
_TOKENIZER = WATCHED.tokenizer()
_TOKENIZER.no_padding()
_TOKENIZER.enable_truncation(WATCHED.identity.max_tokens)


@given(texts=st.lists(st.text(max_size=40).map(lambda text: text * 20), max_size=12))
def test_vectors_come_in_the_order_of_the_texts_and_packs_keep_the_models_budget(
    texts: list[str],
) -> None:
    WATCHED.calls.clear()
    vectors = embed_checked(WATCHED, texts)
    assert vectors.shape == (len(texts), WATCHED.identity.dimension)
    for text, vector in zip(texts, vectors, strict=True):
        np.testing.assert_array_equal(vector, WATCHED.vector(text))
    for call in WATCHED.calls:
        longest = max(len(_TOKENIZER.encode(text)) for text in call)
        assert len(call) == 1 or len(call) * longest <= WATCHED.pack_tokens


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda vectors: vectors[:-1], "2 texts gave 1 vectors"),
        (lambda vectors: vectors[:, :-1], "'one' has 7 dimensions instead of 8"),
        (lambda vectors: vectors * 2, "'one' has length 2.0000 instead of 1"),
        (lambda vectors: vectors * np.float32("nan"), "'one' is not finite"),
        (lambda vectors: vectors * 0, "'one' is zero"),
    ],
    ids=["missing", "dimension", "length", "nan", "zero"],
)
def test_what_is_not_one_good_vector_per_text_is_refused(spoil: object, complaint: str) -> None:
    class Spoilt(HashEmbedder):
        def embed(self, texts: list[str]) -> Vectors:  # type: ignore[override]
            vectors: Vectors = spoil(super().embed(texts))  # type: ignore[operator]
            return vectors

    with pytest.raises(EmbeddingError, match=complaint):
        embed_checked(Spoilt(), ["one", "two"])
