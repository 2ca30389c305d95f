"""What a probe of the serving path proves: a chunk searched for by its own text, and a miss.

Belongs here: choosing chunks by chance, and telling a fault from what an approximate search may
do. Does not belong here: how many are searched for (`signals/`) or the way to the readers
(`serving.py`, `resources/tool_path.py`).
"""

import uuid
from collections.abc import Sequence

import numpy as np

from agent_pipelines.health.view import View
from agent_pipelines.indexing.golden import MIN_COSINE, cosine
from agent_pipelines.indexing.ledger import Ledger
from agent_pipelines.indexing.serving import Sighting
from agent_pipelines.indexing.store import Stored

#: Hits that are asked for, and again after a miss: a wider search is a more exact one.
_LIMITS = (10, 50)

#: A query within MIN_COSINE of the chunk's own vector is at most this angle from it; so whatever
#: comes before the chunk is at most twice the angle away. cos 2a = 2 cos² a - 1.
_NEAR = 2 * MIN_COSINE**2 - 1


def by_chance(ledger: Ledger, count: int) -> list[str]:
    """Ids of that many chunks, other ones every time, where there are so many: ids are hashes."""
    return ledger.some(count, after=str(uuid.uuid4()))


def missed(view: View, wanted: Stored, *, load_model: bool) -> tuple[str | None, Sighting | None]:
    """Why readers do not get this chunk when they search for its text, None when they do; and what
    they get instead.

    No statistics: an exact search puts nothing before the chunk but what is as near to it as the
    backends of one model may differ, so one farther hit in its place is proof. Equal texts, of
    which a search returns any, prove nothing.

    Raises:
        UnavailableError: the serving path or the store does not answer.
        UserError: readers are refused.
    """
    if wanted.vector is None:
        return "it has no vector", None
    for limit in _LIMITS:
        seen = view.serving.nearest(view.subject, wanted, limit=limit, load_model=load_model)
        wrong = _what_is_wrong(view, wanted, seen, limit)
        if wrong is None:
            break
    return wrong, seen


def _what_is_wrong(view: View, wanted: Stored, seen: Sighting, limit: int) -> str | None:
    own, ids = wanted.chunk, list(seen.chunks)
    if own.id not in seen.chunks:
        if len(ids) < limit:
            return f"not among the {len(ids)} hits"
        if farther := _farther(view, wanted, ids):
            return f"not among {limit} hits, of which {farther} are farther from it"
        return None
    if (content := seen.chunks[own.id]) != own.content_hash:
        return f"found with other content: {content[:10]}"
    if farther := _farther(view, wanted, ids[: ids.index(own.id)]):
        return f"found behind {farther} hits that are farther from it: another model asks"
    return None


def _farther(view: View, wanted: Stored, ids: Sequence[str]) -> int:
    """How many of these are not where a search for this chunk may find them before it."""
    if not ids:
        return 0
    held = view.index.store.get(view.snapshot.collection, ids)
    vectors = [held[id_].vector if id_ in held else None for id_ in ids]
    assert wanted.vector is not None
    with np.errstate(all="ignore"):  # of a NaN vector nothing is near
        return sum(v is None or not cosine(wanted.vector, v) >= _NEAR for v in vectors)
