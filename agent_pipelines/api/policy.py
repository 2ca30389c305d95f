"""Whether an agent may work on its index now: the decision of a batch, on what is recorded.

Belongs here: reading the signals for one task. Does not belong here: the decision
(`agents/admission.py`), or evaluating a signal, which takes longer than anybody waits for an answer
and is done all the time by others (`health`).
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from sqlalchemy import Engine

from agent_pipelines.agents.admission import Admission, SignalState, admit, go_on
from agent_pipelines.agents.batches import Snapshot
from agent_pipelines.health.readers import not_true
from agent_pipelines.health.signals import catalogue, warnings
from agent_pipelines.indexing.live import latest
from agent_pipelines.indexing.search import Doubt


class IndexPolicy:
    """Of one agent and its index."""

    def __init__(
        self,
        engine: Engine,
        index: str,
        on_stale_index: Literal["block", "label"],
        *,
        audit_every: timedelta,
    ) -> None:
        """Args:
        engine: the state database.
        index: its name.
        on_stale_index: the agent's policy.
        audit_every: the longest time between two audits of the index.
        """
        self.index = index
        self._engine = engine
        self._policy = on_stale_index
        self._audit_every = audit_every

    def begin(self) -> tuple[Snapshot | None, Admission]:
        """The snapshot that there is, and whether a task may begin on it.

        Raises:
            UnavailableError: the state database does not answer.
        """
        snapshot = latest(self._engine, self.index)
        if snapshot is None:
            return None, Admission(False, (), "nothing was committed yet")
        doubts = {doubt.signal: doubt.state for doubt in self._doubts()}
        readings: list[tuple[str, SignalState]] = [
            (signal.name, doubts.get(signal.name, "true")) for signal in catalogue()
        ]
        admission = admit(self._policy, readings, warnings=warnings())
        return Snapshot(snapshot.index, snapshot.sequence), admission

    def end(self) -> Admission:
        """Whether what was begun may be answered, and with which labels.

        Raises:
            UnavailableError: the state database does not answer.
        """
        return go_on(
            self._policy,
            [(doubt.signal, doubt.state, doubt.reason) for doubt in self._doubts()],
            warnings=warnings(),
        )

    def _doubts(self) -> Sequence[Doubt]:
        return not_true(self._engine, self.index, audit_every=self._audit_every)
