"""The committed sequence as the store has it: by which one sees that store or database went back.

Belongs here: what a commit tells the store, and whether that is of one time with the newest
snapshot. Does not belong here: committing (`live.py`), or what a difference means (`health/`).
"""

from dataclasses import dataclass

from agent_pipelines.indexing.index import Index


@dataclass(frozen=True)
class Told:
    """What the store was told of the newest commit.

    It is announced before the snapshot is recorded and settled after that: a commit that was killed
    between the two is known for one, and for no restored backup.
    """

    sequence: int
    settled: bool

    @property
    def committed(self) -> int:
        """The newest sequence that was committed for certain."""
        return self.sequence if self.settled else self.sequence - 1

    def agrees_with(self, sequence: int) -> bool | None:
        """Whether the newest snapshot is of the same time; None while that cannot be told."""
        if self.settled:
            return sequence == self.sequence
        # The commit that announced it is running, or was killed before or after its snapshot.
        return None if sequence in (self.sequence - 1, self.sequence) else False

    def __str__(self) -> str:
        return f"{self.sequence}" if self.settled else f"{self.sequence} announced"


def told(index: Index) -> Told | None:
    """What the store was told last of this index; None where it was told nothing.

    Raises:
        UnavailableError, StoreError: it cannot be asked.
    """
    value = index.store.note(_key(index))
    if value is None:
        return None
    sequence, _, announced = value.partition(" ")
    return Told(int(sequence), settled=not announced)


def tell(index: Index, now: Told) -> None:
    """Tell the store.

    Raises:
        UnavailableError, StoreError: it does not take it.
    """
    index.store.write_note(_key(index), str(now), index.settings)


def _key(index: Index) -> str:
    return f"sequence of {index.alias}"
