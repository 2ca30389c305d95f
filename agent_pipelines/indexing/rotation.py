"""Looking at every chunk in turn, a few per audit: what is too dear to do to all of them at once.

Belongs here: whose turn it is, and which chunks were found wrong until they are written anew. Does
not belong here: looking at one (`health/`) or writing it anew (`sync.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Literal

from sqlalchemy import Engine, delete, select, update

from agent_pipelines.indexing.batches import batched
from agent_pipelines.indexing.ledger import Ledger
from agent_pipelines.state.engine import read, write
from agent_pipelines.state.tables import rotations, suspects
from agent_pipelines.state.upsert import upsert

#: What only writing a chunk anew mends: its vector is not that of its text, no search finds it, or
#: not every replica holds the same.
Flaw = Literal["wrong vector", "not found", "replicas differ"]

FLAWS: tuple[Flaw, ...] = ("wrong vector", "not found", "replicas differ")

#: The last of those, where there is but one replica, or one is away, is not looked for.
_LOOKED_FOR: frozenset[Flaw] = frozenset({"wrong vector", "not found"})

#: Every chunk has its turn within this time, up to 72,000 chunks where audits are every ten
#: minutes. At most so many have it in one audit (20 s of a MiniLM on two slow cores), and of more
#: chunks the last has its turn later.
PERIOD, AT_MOST = timedelta(days=1), 500

#: So many have it in every audit: a small index is looked at as a whole.
AT_LEAST = 32

_SLICE = 500


@dataclass
class Turn:
    """The chunks whose turn it is: the next ones, and those that were found wrong before."""

    engine: Engine
    collection: str
    suspected: Sequence[str]
    next: Sequence[str]
    total: int
    """Chunks of the generation."""
    hurried: int
    """How many of them are to be looked at as quickly as can be, after a fault was found."""
    _found: dict[Flaw, Mapping[str, str]] = field(default_factory=dict)

    @property
    def ids(self) -> Sequence[str]:
        """All of them, each once."""
        return list(dict.fromkeys([*self.suspected, *self.next]))

    def found(self, flaw: Flaw, wrong: Mapping[str, str]) -> None:
        """Record which of them have this flaw, by id with a detail. The others have it not.

        Once they were looked at for every flaw that can be, it is the turn of the next ones.
        """
        self._found[flaw] = wrong
        rows = [
            {"chunk_id": id_, "fault": flaw, "detail": detail, "doubted": False}
            | {"collection": self.collection}
            for id_, detail in wrong.items()
        ]
        columns = suspects.c
        with write(self.engine) as connection:
            for ids in batched(self.ids, _SLICE):
                connection.execute(
                    delete(suspects).where(
                        columns.collection == self.collection,
                        columns.fault == flaw,
                        columns.chunk_id.in_(ids),
                    )
                )
            upsert(connection, suspects, rows, overwrite=("detail", "doubted"))
            if self._found.keys() >= _LOOKED_FOR and self.next:
                row = {
                    "collection": self.collection,
                    "position": self.next[-1],
                    # Where one was wrong others may be.
                    "hurried": self.total
                    if any(self._found.values())
                    else max(0, self.hurried - len(self.next)),
                    "taken_at": datetime.now(UTC),
                }
                upsert(connection, rotations, [row], overwrite=("position", "hurried", "taken_at"))


def turn(engine: Engine, collection: str, ledger: Ledger, total: int) -> Turn:
    """The chunks of a generation whose turn it is.

    Args:
        engine: the state database.
        collection: the generation.
        ledger: of that generation.
        total: how many chunks it has.
    """
    with read(engine) as connection:
        row = connection.execute(
            select(rotations).where(rotations.c.collection == collection)
        ).one_or_none()
        known = connection.scalars(
            select(suspects.c.chunk_id)
            .where(suspects.c.collection == collection)
            .distinct()
            .order_by(suspects.c.chunk_id)
            .limit(AT_MOST)
        ).all()
    due = AT_LEAST
    if row is not None:
        due = ceil(total * (datetime.now(UTC) - row.taken_at) / PERIOD)
        if row.hurried:
            due = AT_MOST
    many = min(max(due, AT_LEAST), AT_MOST - len(known), total)
    after = row.position if row else ""
    ids = ledger.some(many, after=after)
    return Turn(engine, collection, known, ids, total, row.hurried if row else 0)


def suspected(engine: Engine, collection: str) -> dict[Flaw, list[str]]:
    """Chunks that were found wrong and not doubted since, by what is wrong with them."""
    found: dict[Flaw, list[str]] = {flaw: [] for flaw in FLAWS}
    columns = suspects.c
    query = select(columns.fault, columns.chunk_id).where(
        columns.collection == collection, columns.doubted.is_(False)
    )
    with read(engine) as connection:
        for fault, id_ in connection.execute(query.order_by(columns.chunk_id)):
            found[fault].append(id_)
    return found


def doubted(engine: Engine, collection: str, chunk_ids: Sequence[str]) -> None:
    """Record that these are to be written anew; the next audit looks whether they were."""
    columns = suspects.c
    with write(engine) as connection:
        for ids in batched(chunk_ids, _SLICE):
            connection.execute(
                update(suspects)
                .where(columns.collection == collection, columns.chunk_id.in_(ids))
                .values(doubted=True)
            )
