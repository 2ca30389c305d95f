"""Many items, a few at a time.

Belongs here: cutting any iterable into lists; Python 3.12 has it as `itertools.batched`. Does not
belong here: how large a batch of anything should be.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in order, in lists of `size`; the last one may be shorter, none is empty."""
    remaining = iter(items)
    while some := list(islice(remaining, size)):
        yield some
