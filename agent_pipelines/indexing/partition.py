"""Splitting an index by document id, so that several runs can sync it side by side.

Belongs here: which partition a document is in. Does not belong here: who syncs which partition
(`components/`) or what a partition's ledger looks like (`ledger.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

#: Documents hash into this many buckets, and a partition is a set of buckets. A row or an object
#: keeps its bucket when the number of partitions changes.
BUCKETS = 256


@dataclass(frozen=True)
class Partition:
    """One part in `of`, numbered from 0."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number + 1} of {self.of}"

    def has(self, document_id: str) -> bool:
        """Whether a document is in this part."""
        return self.of == 1 or bucket_of(document_id) % self.of == self.number

    @property
    def buckets(self) -> Sequence[int]:
        """The buckets this part is made of."""
        return range(self.number, BUCKETS, self.of)


#: An index that is not split.
WHOLE = Partition(0, 1)


def bucket_of(document_id: str) -> int:
    """CRC-32 of the id, reduced to a bucket; the same in every process."""
    return crc32(document_id.encode()) % BUCKETS
