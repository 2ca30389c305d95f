"""Generations of an index: which collection is built, live, kept for rollback, retired.

Belongs here: their names and their rows. Does not belong here: filling one (`sync.py`) or making
one live (`live.py`).
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import Engine, delete, insert, select, update

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.spec import Spec
from agent_pipelines.indexing.store import VectorStore
from agent_pipelines.state.engine import write
from agent_pipelines.state.tables import chunks, documents, generations

_INDEX_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True)
class Generation:
    """One collection, built under one spec."""

    collection: str
    fingerprint: str
    state: Literal["building", "live", "previous", "retired"]
    source_digest: str | None
    """The listing it is in step with; None while a sync is changing it."""
    listed_at: datetime | None


def check_index_name(name: str) -> str:
    """The name, if it can name an index.

    Raises:
        UserError: it cannot. The store capitalises names and ours are built with `__`, so only
            names for which that stays reversible are allowed.
    """
    if not _INDEX_NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot name an index",
            remedy="rename the folder: lower-case letters and digits, joined by single underscores",
        )
    return name


def alias_of(index: str) -> str:
    """The Weaviate alias of an index; different for different indexes."""
    return check_index_name(index)[0].upper() + index[1:]


def live(engine: Engine, index: str) -> Generation | None:
    """The generation readers get, or None before the first commit."""
    return next((g for g in _all(engine, index) if g.state == "live"), None)


def under(engine: Engine, index: str, spec: Spec) -> Generation | None:
    """The newest generation that was built under this spec, or None."""
    fingerprint = spec.fingerprint
    usable = (g for g in _all(engine, index) if g.state != "retired")
    return next((g for g in usable if g.fingerprint == fingerprint), None)


def open_for(engine: Engine, store: VectorStore, index: str, spec: Spec) -> Generation:
    """The generation under this spec: the one there is, or a new, empty one.

    A collection that the store holds but the state database does not know (it was lost or rolled
    back) is left alone: readers may still be using it, and nobody can say what is in it.
    """
    present = set(store.collections())
    generation = under(engine, index, spec)
    if generation and generation.collection in present:
        return generation
    known = {g.collection for g in _all(engine, index)}
    name = _free_name(f"{alias_of(index)}__{spec.fingerprint[:10]}", taken=present | known)
    store.create_collection(name, f"index {index}, spec {spec.fingerprint}")
    with write(engine) as connection:
        connection.execute(
            insert(generations).values(
                collection=name,
                index_name=index,
                fingerprint=spec.fingerprint,
                spec=spec.as_dict(),
                state="building",
                created_at=datetime.now(UTC),
            )
        )
    return Generation(name, spec.fingerprint, "building", None, None)


def mark_in_flux(engine: Engine, collection: str) -> None:
    """Say that a sync is changing this generation: it is in step with no listing now."""
    _set(engine, collection, source_digest=None, listed_at=None)


def mark_in_step(
    engine: Engine, collection: str, *, source_digest: str, listed_at: datetime
) -> None:
    """Say that this generation holds what that listing listed."""
    _set(engine, collection, source_digest=source_digest, listed_at=listed_at)


def make_live(engine: Engine, store: VectorStore, index: str, collection: str) -> None:
    """Record which generation is live; keep the one before it for rollback, retire older ones."""
    before = live(engine, index)
    columns = generations.c
    with write(engine) as connection:
        this = columns.collection == collection
        was_live = (columns.index_name == index) & (columns.state == "live") & ~this
        connection.execute(update(generations).where(was_live).values(state="previous"))
        connection.execute(update(generations).where(this).values(state="live"))
    # The one readers had until now, which need not be the youngest: a spec may come back.
    previous = [g.collection for g in _all(engine, index) if g.state == "previous"]
    just_left = [before.collection] if before and before.collection in previous else previous[:1]
    for generation in _all(engine, index):
        unused = generation.state in ("previous", "building")
        if unused and generation.collection not in just_left:
            store.drop_collection(generation.collection)
            with write(engine) as connection:
                for table in (documents, chunks):
                    connection.execute(
                        delete(table).where(table.c.collection == generation.collection)
                    )
            _set(engine, generation.collection, state="retired", source_digest=None)


def _set(engine: Engine, collection: str, **values: object) -> None:
    with write(engine) as connection:
        connection.execute(
            update(generations).where(generations.c.collection == collection).values(**values)
        )


def _all(engine: Engine, index: str) -> list[Generation]:
    query = (
        select(generations)
        .where(generations.c.index_name == index)
        .order_by(generations.c.created_at.desc())
    )
    with engine.connect() as connection:
        return [
            Generation(row.collection, row.fingerprint, row.state, row.source_digest, row.listed_at)
            for row in connection.execute(query)
        ]


def _free_name(wanted: str, *, taken: set[str]) -> str:
    name, attempt = wanted, 1
    while name in taken:
        attempt += 1
        name = f"{wanted}_{attempt}"
    return name
