"""A batch: many tasks, one agent, every row accounted for.

Belongs here: opening what a batch runs on, its end and the report. Does not belong here: which row
runs when (`dispatch.py`), one conversation (`conversation.py`), or whether the batch may start
(`admission.py`).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Engine

from agent_pipelines.agents import answers, batches, lifecycle, spending, waiting
from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.batches import Batch
from agent_pipelines.agents.budget import Meter, MeteredModel, MeteredSession
from agent_pipelines.agents.dispatch import Dispatch, Ending
from agent_pipelines.agents.journal import Journal
from agent_pipelines.agents.load import LoadReader
from agent_pipelines.agents.model import Model
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import Toolbox, ToolSession
from agent_pipelines.agents.watch import IndexTurnedFalseError, Watch
from agent_pipelines.errors import UserError
from agent_pipelines.state.leases import Fence, LeaseLostError, unfenced

logger = logging.getLogger(__name__)

#: Tasks read together: what a batch holds of them in memory, however many it has.
_PAGE = 256

#: Called after every answer with (done, total, outcome counts).
Progress = Callable[[int, int, Mapping[str, int]], None]


@dataclass(frozen=True)
class BatchReport:
    """What a batch came to, over all its runs. Counts, citations and latencies are of all its
    answers; seconds, tokens and ``answered`` are its own, without what a rerun took over."""

    batch_id: str
    tasks: int
    resumed: int
    """Answers that were there when this run of it began."""
    answered: int
    outcomes: Mapping[str, int]
    citations: int
    citations_not_retrieved: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    latency_p50: float
    latency_p95: float
    labels: Mapping[str, int]
    """How many answers were given while a signal was not true, by signal."""
    ending: Ending
    """Why this run of it went no further."""
    resume_at: datetime | None = None
    """When a batch that waits is started again at the latest."""

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per second of its runs."""
        return self.completion_tokens / self.seconds if self.seconds else 0.0


async def run_batch(
    spec: AgentSpec,
    *,
    batch: Batch,
    model: Model,
    tools: ToolSession | None,
    engine: Engine,
    progress: Progress = lambda _done, _total, _outcomes: None,
    watch: Watch | None = None,
    say: Callable[[str], object] = logger.warning,
    fence: Fence = unfenced,
    load: LoadReader | None = None,
) -> BatchReport:
    """Answer every task that has no answer yet, then close the batch.

    Cut off at any instant, by Ctrl-C or kill -9, it continues where it was when it is opened and
    run again: answered tasks are not repeated, begun conversations go on from their journal. The
    same goes for one that ends early, as the report's ``ending`` says: its budget is used up, or
    all that is left needs what has been down for too long.

    With a ``watch`` no answer is written without the index having been looked at shortly before.
    ``say`` is told what rows wait for. Every transaction that records something begins with the
    ``fence``. ``load``: of the model server, where somebody reads that already.

    Raises:
        LeaseLostError: by the fence. Another run is at the batch, and nothing more was recorded.
        UserError: the agent's tools do not fit its tool server.
        IndexTurnedFalseError: the watch says that the batch must not go on. What is answered
            stays, and the rest can be resumed.
        ToolTransportError: the tool server does not answer at the start.
    """
    started = time.perf_counter()
    try:
        meter = Meter(
            spec.batch_limits, await asyncio.to_thread(spending.spent, engine, batch.batch_id)
        )
        toolbox = await Toolbox.open(spec, MeteredSession(tools, meter) if tools else None)
        counts = await asyncio.to_thread(answers.outcomes, engine, batch.batch_id)
        resumed = counts.total()

        async def keep(answer: Answer) -> None:
            if watch is not None:
                admission = await watch.latest()
                if not admission.allowed:
                    raise _Stopped(admission.reason)
                answer = replace(answer, false_signals=admission.false_signals)
            await asyncio.to_thread(answers.record_answer, engine, batch, answer, fence=fence)
            counts[answer.outcome] += 1
            progress(counts.total(), batch.tasks, dict(counts))

        once = model.asking_once()
        journal = Journal(engine, batch.batch_id, fence=fence)
        dispatch = Dispatch(
            spec,
            model=MeteredModel(once.client, once.name, once.server, meter=meter),
            toolbox=toolbox,
            journal=journal,
            meter=meter,
            load=load or model.server,
            say=say,
        )
        ending = Ending("finished")
        try:
            fresh = _Fresh(engine, batch.batch_id, journal)
            ending = await dispatch.run(fresh.next, keep)
        except ExceptionGroup as group:
            # One error for people, and no group of them.
            first = next(filter(_is_told, group.exceptions), None)
            if isinstance(first, _Stopped):
                raise await _turned_false(spec, batch, engine, str(first)) from None
            raise (first or group) from None
        resume_at = await asyncio.to_thread(
            _close, engine, batch.batch_id, ending, counts.total() > resumed, fence
        )
    except LeaseLostError:
        raise  # whoever has it now says how it ends
    except BaseException:
        # Ctrl-C included. After kill -9 the row stays `running`, which opens again just the same.
        lifecycle.stop_batch(engine, batch.batch_id, fence=fence)
        seconds = time.perf_counter() - started
        spending.add_seconds(engine, batch.batch_id, seconds, fence=fence)
        raise
    seconds = time.perf_counter() - started
    await asyncio.to_thread(spending.add_seconds, engine, batch.batch_id, seconds, fence=fence)
    return await asyncio.to_thread(
        _report, engine, batch.batch_id, ending, resume_at, resumed=resumed
    )


def put_off(
    engine: Engine, batch_id: str, what: str, reason: str, *, fence: Fence = unfenced
) -> BatchReport:
    """Let a batch wait on: when it was to be started again, ``what`` was down still."""
    ending = Ending("waiting", what, reason)
    resume_at = _close(engine, batch_id, ending, answered=False, fence=fence)
    return _report(engine, batch_id, ending, resume_at)


def _report(
    engine: Engine,
    batch_id: str,
    ending: Ending,
    resume_at: datetime | None,
    *,
    resumed: int | None = None,
) -> BatchReport:
    """``resumed``: default, all of them: this run has done nothing."""
    outcomes, whole = answers.outcomes(engine, batch_id), answers.totals(engine, batch_id)
    cost = spending.spent(engine, batch_id)
    return BatchReport(
        batch_id=batch_id,
        tasks=batches.count_tasks(engine, batch_id),
        resumed=outcomes.total() if resumed is None else resumed,
        answered=cost.answers,
        outcomes=outcomes,
        citations=whole.citations,
        citations_not_retrieved=whole.citations_not_retrieved,
        prompt_tokens=cost.prompt_tokens,
        completion_tokens=cost.completion_tokens,
        seconds=cost.seconds,
        latency_p50=answers.latency(engine, batch_id, 0.50),
        latency_p95=answers.latency(engine, batch_id, 0.95),
        labels=whole.labels,
        ending=ending,
        resume_at=resume_at,
    )


def _close(
    engine: Engine, batch_id: str, ending: Ending, answered: bool, fence: Fence
) -> datetime | None:
    """Leave a batch as its ending says; returns when it is started again, if it is."""
    if ending.kind == "waiting":
        what, reason = ending.what, ending.reason
        return waiting.wait(engine, batch_id, what, reason, answered=answered, fence=fence)
    if ending.kind == "budget":
        lifecycle.stop_batch(engine, batch_id, fence=fence)
    else:
        lifecycle.finish_batch(engine, batch_id, fence=fence)
    return None


def _is_told(error: Exception) -> bool:
    """Whether it is one that says by itself what has ended the batch."""
    return isinstance(error, _Stopped | UserError | LeaseLostError)


class _Stopped(Exception):
    """Ends every task of the batch where it is; the journal has what was finished."""


class _Fresh:
    """Tasks that have no answer yet, for several workers at once; a page of them in memory."""

    def __init__(self, engine: Engine, batch_id: str, journal: Journal) -> None:
        self._engine = engine
        self._batch_id = batch_id
        self._journal = journal
        self._page: deque[Task] = deque()
        self._after = 0
        self._turn = asyncio.Lock()

    async def next(self) -> Task | None:
        """One that nobody was given before; None once there is no other."""
        async with self._turn:
            if not self._page:
                page = await asyncio.to_thread(self._read)
                self._after = max((task.row or 0 for task in page), default=self._after)
                # Prompts that begin alike follow one another: the server has what they share in
                # its prefix cache, and would have had to make room for others in between.
                self._page.extend(sorted(page, key=lambda task: task.prompt))
            return self._page.popleft() if self._page else None

    def _read(self) -> Sequence[Task]:
        page = answers.unanswered(self._engine, self._batch_id, after=self._after, limit=_PAGE)
        self._journal.look([task.task_id for task in page])
        return page


async def _turned_false(
    spec: AgentSpec, batch: Batch, engine: Engine, reason: str
) -> IndexTurnedFalseError:
    answered = (await asyncio.to_thread(answers.outcomes, engine, batch.batch_id)).total()
    return IndexTurnedFalseError(
        f"agent {spec.name} stopped after {answered} of {batch.tasks} tasks, because index "
        f"{spec.index} is not true any more: {reason}",
        remedy="see `agent-pipelines status`; started again on the same snapshot, the batch "
        "continues where it was, and on another one it begins anew",
    )
