"""What readers are told of an index beside what they asked for: the signals that are not true.

Belongs here: reading the recorded readings, and refusing where the index's YAML says so. Does not
belong here: evaluating a signal (`evaluate.py`), or how a reader is answered (`toolservers/`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, select

from agent_pipelines.errors import UserError
from agent_pipelines.health.signal import State, may_be_old
from agent_pipelines.health.signals import catalogue
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.search import Doubt, IndexSearcher, SearchResult
from agent_pipelines.indexing.store import Filter
from agent_pipelines.state.engine import read
from agent_pipelines.state.tables import signals as table


class BlockedError(UserError):
    """The index may not be read now. Carries what it would have given, for probes."""

    def __init__(self, result: SearchResult, false: Sequence[Doubt]) -> None:
        runbooks = {signal.name: signal.runbook for signal in catalogue()}
        said = "; ".join(
            f"{doubt.signal} is false"
            + (f" since {doubt.since:%Y-%m-%d %H:%M} UTC" if doubt.since else "")
            + f" ({doubt.reason})"
            for doubt in false
        )
        super().__init__(
            f"index {result.index!r} is blocked: {said}",
            remedy=f"{runbooks[false[0].signal]} It is read again once the signal is true.",
        )
        self.result = result


def not_true(engine: Engine, index: str, *, audit_every: timedelta) -> list[Doubt]:
    """The signals of an index that are not known to be true, from the recorded readings.

    A good reading that is older than it may be is no news: whoever should evaluate does not. A bad
    one stands until somebody sees otherwise.

    Args:
        engine: the state database.
        index: its name.
        audit_every: the longest time between two of its audits, as they are scheduled.

    Raises:
        UnavailableError: the state database does not answer.
    """
    columns = table.c
    query = select(
        columns.name, columns.state, columns.since, columns.evaluated_at, columns.observed
    ).where(columns.subject == index)
    with read(engine) as connection:
        rows = {row.name: row for row in connection.execute(query)}
    now = datetime.now(UTC)
    found = []
    for signal in catalogue():
        row = rows.get(signal.name)
        if row is None:
            found.append(Doubt(signal.name, "cannot tell", None, "never evaluated"))
            continue
        age = now - row.evaluated_at
        old = age > may_be_old(signal.depth, audit_every)
        for_ = timedelta(seconds=round(age.total_seconds()))
        said = f"; last evaluated {for_} ago" if old else ""
        if row.state != State.TRUE:
            found.append(Doubt(signal.name, row.state, row.since, row.observed + said))
        elif old:
            reason = f"not evaluated for {for_}; it was true then"
            found.append(Doubt(signal.name, "cannot tell", row.evaluated_at, reason))
    return found


def false_pages(doubts: Sequence[Doubt]) -> list[Doubt]:
    """Those that are false and that somebody is woken for: nothing less ever blocks a reader."""
    pages = {signal.name for signal in catalogue() if signal.severity == "page"}
    return [doubt for doubt in doubts if doubt.state == "false" and doubt.signal in pages]


class CheckedSearcher:
    """A `Searcher` whose results say what is not true of their index."""

    def __init__(self, indexes: Mapping[str, Index]) -> None:
        self._all = indexes
        self._searcher = IndexSearcher(indexes)

    def indexes(self) -> Sequence[str]:
        """Names of the indexes that can be searched."""
        return self._searcher.indexes()

    def search(
        self,
        index: str,
        query: str,
        *,
        limit: int,
        filters: Sequence[Filter] = (),
        alpha: float = 0.5,
    ) -> SearchResult:
        """See `IndexSearcher`.

        Raises:
            BlockedError: a signal is false, and the index's YAML says `when_false: block`.
        """
        found = self._searcher.search(index, query, limit=limit, filters=filters, alpha=alpha)
        return self._checked(found)

    def fetch(self, index: str, chunk_id: str) -> SearchResult:
        """See `IndexSearcher`.

        Raises:
            BlockedError: a signal is false, and the index's YAML says `when_false: block`.
        """
        return self._checked(self._searcher.fetch(index, chunk_id))

    def _checked(self, found: SearchResult) -> SearchResult:
        # Read after the search: what was seen to be false before it is never left out.
        index = self._all[found.index]
        doubts = not_true(index.engine, index.name, audit_every=index.audit_every)
        result = replace(found, not_true=doubts)
        false = false_pages(result.not_true)
        if false and index.when_false == "block":
            raise BlockedError(result, false)
        return result
