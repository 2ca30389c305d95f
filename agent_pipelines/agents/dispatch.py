"""Which row of a batch runs next, how many run at once, and when none can go on.

Belongs here: rows at work, parked rows, rows that are given up. Does not belong here: opening and
closing the batch (`batch.py`), or one conversation (`conversation.py`).
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from agent_pipelines.agents.answer import Answer, unexpected
from agent_pipelines.agents.budget import Meter
from agent_pipelines.agents.concurrency import Concurrency
from agent_pipelines.agents.conversation import TRACE, Parked
from agent_pipelines.agents.journal import Journal
from agent_pipelines.agents.load import LoadReader
from agent_pipelines.agents.loop import converse
from agent_pipelines.agents.model import Message, Model
from agent_pipelines.agents.parking import MODEL, Parking
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import Toolbox
from agent_pipelines.errors import UnavailableError
from agent_pipelines.state.leases import LeaseLostError

logger = logging.getLogger(__name__)

#: Seconds between two looks at the load of the model server.
_LOOK_EVERY = 1.0

#: Times that a row is refused, and that may be its own fault, after which nobody waits with it any
#: more: what it asks may be what the server cannot stand.
_GIVEN_UP = 5

#: Rows that are parked at once: each is held in memory, and has cost a turn of the model. While so
#: many wait for a tool server no other row begins.
_MOST_PARKED = 1_000

#: The next row that has not begun; None once there is no other.
Fresh = Callable[[], Awaitable[Task | None]]

#: Called with every answer.
Keep = Callable[[Answer], Awaitable[None]]


@dataclass(frozen=True)
class Ending:
    """Why a batch goes no further: every row has its answer, or what is in the way."""

    kind: Literal["finished", "waiting", "budget"]
    what: str = ""
    """That is waited for."""
    reason: str = ""
    """For people."""


@dataclass(eq=False)
class _Row:
    task: Task
    doubtful: int = 0
    """Times that what seems to be down may not be, but this row too much for it."""
    answers: int | None = None
    """Those of what it waits for by the time that it was refused; None once it has got further."""


class Dispatch:
    """The rows of one run of a batch."""

    def __init__(
        self,
        spec: AgentSpec,
        *,
        model: Model,
        toolbox: Toolbox,
        journal: Journal,
        meter: Meter,
        load: LoadReader | None,
        say: Callable[[str], object],
    ) -> None:
        self._spec = spec
        self._model = model
        self._toolbox = toolbox
        self._journal = journal
        self._meter = meter
        self._load = load
        self._say = say
        fixed = None if spec.concurrency == "auto" else spec.concurrency
        self._concurrency = Concurrency(fixed)
        self._parking: Parking[_Row] = Parking()
        self._at_work = self._left_behind = 0
        self._woken = asyncio.Event()
        self._answers: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}

    async def run(self, fresh: Fresh, keep: Keep) -> Ending:
        """Let every row come to its answer, as long as something can go on.

        Raises:
            ExceptionGroup: of whatever ``fresh`` or ``keep`` raise, or the state database.
        """
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow_load())
            try:
                return await self._run(group, fresh, keep)
            finally:
                following.cancel()

    async def _run(self, group: asyncio.TaskGroup, fresh: Fresh, keep: Keep) -> Ending:
        stalled: float | None = None
        while True:
            self._woken.clear()
            while row := await self._next(fresh):
                self._at_work += 1
                group.create_task(self._work(row, keep))
            if not self._at_work:
                if (used_up := self._meter.used_up) and await self._is_unfinished(fresh):
                    return Ending("budget", reason=used_up)
                if not self._parking:
                    return Ending("finished")
            down = self._parking.down
            left: float | None = None
            # Those that only try whether it is back are no work.
            if not down or self._at_work > self._parking.trying:
                stalled = None
            else:
                stalled = stalled or time.monotonic()
                if not self._at_work:
                    left = stalled + self._spec.wait_minutes * 60 - time.monotonic()
            if left is not None and left <= 0:
                what = max(down, key=lambda name: down[name])
                return Ending("waiting", what, self._reasons[what])
            free = self._at_work < self._concurrency.limit and not self._meter.used_up
            await self._wake(self._parking.due if free else None, left)

    async def _next(self, fresh: Fresh) -> _Row | None:
        if self._at_work >= self._concurrency.limit or self._meter.used_up:
            return None
        if row := self._parking.take():
            return row
        # Each row needs the model first; one that needs no tool has no reason to wait for one.
        if MODEL in self._parking.down or len(self._parking) >= _MOST_PARKED:
            return None
        task = await fresh()
        return None if task is None else _Row(task)

    async def _is_unfinished(self, fresh: Fresh) -> bool:
        return bool(self._left_behind or self._parking or await fresh())

    async def _wake(self, *seconds: float | None) -> None:
        """Wait until something has changed, or the first of these have passed."""
        given = [each for each in seconds if each is not None]
        try:
            async with asyncio.timeout(min(given) if given else None):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _follow_load(self) -> None:
        while self._load is not None and self._spec.concurrency == "auto":
            load = await self._load.load()
            before = self._concurrency.limit
            if self._concurrency.observe(load, self._at_work) != before:
                logger.debug("%d tasks at once: %s", self._concurrency.limit, load)
                self._woken.set()
            await asyncio.sleep(_LOOK_EVERY)

    # One row

    async def _work(self, row: _Row, keep: Keep) -> None:
        try:
            await keep(await self._answer(row))
        except Parked as parked:
            if parked.answered:
                self._heard(parked.what)
            self._doubt(row, parked)
            self._reasons[parked.what] = str(parked)
            if self._meter.used_up:
                self._left_behind += 1
            else:
                if parked.what not in self._parking.down:
                    self._say(f"rows that need {parked.what} wait for it: {parked}")
                self._parking.park(row, parked.what, parked.retry_after)
        finally:
            self._parking.ended(row)
            self._at_work -= 1
            self._woken.set()

    async def _answer(self, row: _Row) -> Answer:
        task = row.task
        try:
            history: Sequence[Message] = ()
            if not self._journal.is_blank(task.task_id):
                history = await asyncio.to_thread(self._journal.read, task.task_id)
            write = self._journal.recorder(task.task_id, following=len(history))

            async def record(message: Message) -> None:
                await write(message)
                self._recorded(row, message)

            return await converse(
                self._spec,
                task,
                model=self._model,
                toolbox=self._toolbox,
                record=record,
                history=history,
                patient=row.doubtful < _GIVEN_UP,
            )
        except (Parked, SQLAlchemyError, UnavailableError, LeaseLostError):
            # Without the state database no row can be accounted for: the batch stops, resumable.
            raise
        except Exception as error:  # a row never sinks the batch, not even by a bug of ours
            return unexpected(task.task_id, error)

    def _recorded(self, row: _Row, message: Message) -> None:
        """Whoever a message comes from is not down."""
        trace = message.get(TRACE, {})
        if message["role"] == "assistant":
            row.doubtful, row.answers = 0, None
            self._heard(MODEL)
        elif trace.get("sent") and not trace.get("unknown"):
            row.doubtful, row.answers = 0, None
            if tool := self._toolbox.get(trace["tool"]):
                self._heard(tool.server)

    def _heard(self, what: str) -> None:
        self._answers[what] += 1
        if what in self._parking.down:
            self._say(f"{what} answers again: {self._parking.down[what]} rows go on")
            self._parking.answered(what)
            self._woken.set()

    def _doubt(self, row: _Row, parked: Parked) -> None:
        """Count a refusal that may be the row's own fault: the server failed having its request, or
        has answered others since it last refused this one."""
        answers = self._answers[parked.what]
        others = row.answers is not None and answers > row.answers
        if parked.suspicion == 2 or (parked.suspicion and others):
            row.doubtful += 1
        row.answers = answers
