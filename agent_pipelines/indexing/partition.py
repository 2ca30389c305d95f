"""Splitting an index by document id, so that several runs can sync it side by side; and a batch by
task id, likewise.

Belongs here: which partition an id is in. Does not belong here: who works at which partition
(`components/`) or what a partition's ledger looks like (`ledger.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

#: Ids hash into this many buckets, and a partition is a set of buckets. A row or an object
#: keeps its bucket when the number of partitions changes.
BUCKETS = 256


@dataclass(frozen=True)
class Partition:
    """One part in `of`, numbered from 0."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number + 1} of {self.of}"

    def has(self, id_: str) -> bool:
        """Whether a document, or a task, is in this part."""
        return self.of == 1 or bucket_of(id_) % self.of == self.number

    @property
    def buckets(self) -> Sequence[int]:
        """The buckets this part is made of."""
        return range(self.number, BUCKETS, self.of)


#: An index that is not split.
WHOLE = Partition(0, 1)


def keyed(count: int) -> Mapping[str, Partition]:
    """All of so many parts by Dagster's partition key; none where nothing is split."""
    if count == 1:
        return {}
    return {f"{n + 1}-of-{count}": Partition(n, count) for n in range(count)}


def bucket_of(id_: str) -> int:
    """CRC-32 of the id, reduced to a bucket; the same in every process."""
    return crc32(id_.encode()) % BUCKETS
