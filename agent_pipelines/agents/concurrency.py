"""How many tasks at once: as many as the model server has room for.

Belongs here: the decision, from what the server tells of its load. Does not belong here: reading
the load (`load.py`, `resources`) or keeping to the limit (`batch.py`).
"""

from agent_pipelines.agents.load import Load

#: Where the server does not tell its load, and where one that does is begun with.
DEFAULT = 8

#: Bounds of what is found to fit.
LOWEST, HIGHEST = 1, 512

#: Requests that wait, from which on more at once would only wait longer.
_QUEUE = 10

#: Requests that wait, up to which there is room for more.
_ROOM = 2

#: The share of the KV cache, from which on more at once would soon cost preemptions.
_FULL = 0.9

#: Additive increase, multiplicative decrease: what many share settles at fair shares (Chiu and
#: Jain, 1989).
_MORE, _LESS = 8, 0.7


class Concurrency:
    """The limit of one batch, which follows the server's load; fixed, where a person says so."""

    def __init__(self, fixed: int | None = None) -> None:
        """Args:
        fixed: tasks at once; None: as many as there is room for.
        """
        self._fixed = fixed
        self._preemptions: int | None = None
        self._lowering = False
        self.limit = fixed or DEFAULT

    def observe(self, load: Load | None, at_work: int) -> int:
        """The limit from now on.

        Args:
            load: of the server; None where it does not tell.
            at_work: tasks that run, which are more than the limit when it was lowered just now.
        """
        if self._fixed is not None or load is None:
            return self.limit
        before, self._preemptions = self._preemptions, load.preemptions
        preempted = before is not None and load.preemptions > before
        if at_work <= self.limit:
            self._lowering = False
        if load.waiting >= _QUEUE or preempted:
            # Once: until the tasks at work are as few, the server cannot show what it did.
            if not self._lowering:
                self.limit = max(LOWEST, int(min(self.limit, at_work) * _LESS))
                self._lowering = at_work > self.limit
        elif load.waiting <= _ROOM and load.kv_cache < _FULL and at_work >= self.limit:
            self.limit = min(HIGHEST, self.limit + _MORE)
        return self.limit
