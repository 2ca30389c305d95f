"""Whether a store holds what it should: read by the harness itself, whatever a contender reports.

Belongs here: comparing texts, and searching for what must be found. Does not belong here: what
should be there, which is told by the contender's own splitter on the files alone.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from weaviate import WeaviateClient

from tests.bench.process import Driver

Pair = tuple[str, str]
"""A document's id and a chunk's text."""

#: Known items searched for, half of them in documents that the phase changed.
_PROBES = 100
_NEAREST = 10
_PAGE = 5_000
_EXAMPLES = 10


@dataclass(frozen=True)
class Truth:
    """What the store holds against what it should."""

    wanted: int
    held: int
    missing: int
    """Chunks of the source that are not in the store."""
    missing_documents: tuple[str, ...]
    """Some of the documents they belong to."""
    extra: int
    """Chunks in the store that the source does not have, or no longer."""
    extra_documents: tuple[str, ...]
    duplicates: int
    """Chunks more often in the store than in the source."""
    merged: int
    """Equal chunks of one document that were made one: intended by some, and no fault."""
    ids_twice: int
    probes: int
    found: int
    """Probes whose own text was among the ten nearest."""

    @property
    def right(self) -> bool:
        return not (self.missing or self.extra or self.duplicates or self.ids_twice)


def check(
    client: WeaviateClient,
    answer: dict[str, Any],
    wanted: Sequence[Pair],
    changed: Sequence[str],
    vectors: Callable[[list[str]], list[list[float]]],
) -> Truth:
    """Read the whole store and compare.

    Args:
        client: the run's Weaviate.
        answer: where the contender says its chunks are: collection and property names.
        wanted: every chunk that should be there.
        changed: ids of the documents that this phase touched.
        vectors: text to vectors, as the contender makes them.
    """
    collection = client.collections.use(answer["collection"])
    text, document = answer["text_property"], answer["document_property"]
    ids: Counter[str] = Counter()
    held: Counter[Pair] = Counter()
    for found in collection.iterator(return_properties=[text, document], cache_size=_PAGE):
        ids[str(found.uuid)] += 1
        held[(str(found.properties[document]), str(found.properties[text]))] += 1
    should = Counter(wanted)
    missing = [pair for pair in should if pair not in held]
    extra = [pair for pair in held if pair not in should]
    both = should.keys() & held.keys()

    probes = _probes(list(should), set(changed))
    found_probes = 0
    for (_, probe), vector in zip(probes, vectors([t for _, t in probes]), strict=True):
        near = collection.query.near_vector(vector, limit=_NEAREST, return_properties=[text])
        found_probes += any(o.properties[text] == probe for o in near.objects)
    return Truth(
        wanted=len(wanted),
        held=held.total(),
        missing=sum(should[pair] for pair in missing),
        missing_documents=_some(missing),
        extra=sum(held[pair] for pair in extra),
        extra_documents=_some(extra),
        duplicates=sum(max(0, held[pair] - should[pair]) for pair in both),
        merged=sum(max(0, should[pair] - held[pair]) for pair in both),
        ids_twice=sum(n - 1 for n in ids.values()),
        probes=len(probes),
        found=found_probes,
    )


def gone(wanted: Sequence[Pair]) -> Truth:
    """What is to be said of a collection that does not exist."""
    documents = _some(wanted)
    return Truth(len(wanted), 0, len(wanted), documents, 0, (), 0, 0, 0, _PROBES, 0)


def vectors_of(driver: Driver) -> Callable[[list[str]], list[list[float]]]:
    """Text to vectors, as this contender makes them."""
    return lambda texts: cast(list[list[float]], driver.ask("vectors", texts=texts)["vectors"])


def _probes(pairs: list[Pair], changed: set[str]) -> list[Pair]:
    chosen = random.Random(0)
    touched = [pair for pair in pairs if pair[0] in changed]
    some = chosen.sample(touched, min(_PROBES // 2, len(touched)))
    return some + chosen.sample(pairs, min(_PROBES - len(some), len(pairs)))


def _some(pairs: Sequence[Pair]) -> tuple[str, ...]:
    return tuple(sorted({document for document, _ in pairs})[:_EXAMPLES])
