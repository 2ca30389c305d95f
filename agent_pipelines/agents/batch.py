"""A batch: many tasks, one agent, every row accounted for.

Belongs here: concurrency, resumption, progress and the report. Does not belong here: one
conversation (`loop.py`), or whether the batch may start (`admission.py`).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from agent_pipelines.agents import answers
from agent_pipelines.agents.answers import Batch
from agent_pipelines.agents.journal import Journal
from agent_pipelines.agents.loop import Answer, converse
from agent_pipelines.agents.model import Model
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import Toolbox, ToolSession
from agent_pipelines.agents.watch import IndexTurnedFalseError, Watch

logger = logging.getLogger(__name__)

#: Tasks read together: what a batch holds of them in memory, however many it has.
_PAGE = 256

#: Called after every answer with (done, total, outcome counts).
Progress = Callable[[int, int, Mapping[str, int]], None]


@dataclass(frozen=True)
class BatchReport:
    """What a batch came to. Counts, citations and latencies are of all its answers; seconds and
    tokens are what this run of it spent."""

    batch_id: str
    tasks: int
    resumed: int
    """Answers that an earlier run of the batch had left."""
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

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per second of this run."""
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
) -> BatchReport:
    """Answer every task that has no answer yet, then close the batch.

    Cut off at any instant, by Ctrl-C or kill -9, it continues where it was when it is opened and
    run again: answered tasks are not repeated, begun conversations go on from their journal.

    With a ``watch`` no answer is written without the index having been looked at shortly before.

    Raises:
        UserError: the agent's tools do not fit its tool server.
        IndexTurnedFalseError: the watch says that the batch must not go on. What is answered
            stays, and the rest can be resumed.
        ToolTransportError: the tool server does not answer at the start.
    """
    started = time.perf_counter()
    prompt_tokens = completion_tokens = 0
    stopped: str | None = None
    try:
        toolbox = await Toolbox.open(spec, tools)
        counts = await asyncio.to_thread(answers.outcomes, engine, batch.batch_id)
        resumed = counts.total()
        journal = Journal(engine, batch.batch_id)
        waiting = _Waiting(engine, batch.batch_id)

        async def work() -> None:
            nonlocal prompt_tokens, completion_tokens
            while task := await waiting.next():
                answer = await _answer(spec, task, model=model, toolbox=toolbox, journal=journal)
                if watch is not None:
                    admission = await watch.latest()
                    if not admission.allowed:
                        raise _Stopped(admission.reason)
                    answer = replace(answer, false_signals=admission.false_signals)
                await asyncio.to_thread(answers.record_answer, engine, batch, answer)
                counts[answer.outcome] += 1
                prompt_tokens += answer.prompt_tokens
                completion_tokens += answer.completion_tokens
                progress(counts.total(), batch.tasks, dict(counts))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(spec.concurrency):
                    group.create_task(work())
        except* _Stopped as cut_off:
            stopped = str(cut_off.exceptions[0])
        if stopped is not None:
            # Outside, for it is one error for people and no group of them.
            raise await _turned_false(spec, batch, engine, stopped)
        await asyncio.to_thread(answers.finish_batch, engine, batch.batch_id)
    except BaseException:
        # Ctrl-C included. After kill -9 the row stays `running`, which opens again just the same.
        answers.stop_batch(engine, batch.batch_id)
        raise
    seconds = time.perf_counter() - started
    whole = await asyncio.to_thread(answers.totals, engine, batch.batch_id)
    p50, p95 = [
        await asyncio.to_thread(answers.latency, engine, batch.batch_id, q) for q in (0.50, 0.95)
    ]
    return BatchReport(
        batch_id=batch.batch_id,
        tasks=batch.tasks,
        resumed=resumed,
        outcomes=counts,
        citations=whole.citations,
        citations_not_retrieved=whole.citations_not_retrieved,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        seconds=seconds,
        latency_p50=p50,
        latency_p95=p95,
        labels=whole.labels,
    )


class _Stopped(Exception):
    """Ends every task of the batch where it is; the journal has what was finished."""


class _Waiting:
    """Tasks that have no answer yet, for several workers at once; a page of them in memory."""

    def __init__(self, engine: Engine, batch_id: str) -> None:
        self._engine = engine
        self._batch_id = batch_id
        self._page: deque[Task] = deque()
        self._after = 0
        self._turn = asyncio.Lock()

    async def next(self) -> Task | None:
        """One that nobody was given before; None once there is no other."""
        async with self._turn:
            if not self._page:
                self._page.extend(await asyncio.to_thread(self._read))
            if not self._page:
                return None
            task = self._page.popleft()
            self._after = task.row or 0
            return task

    def _read(self) -> Sequence[Task]:
        return answers.unanswered(self._engine, self._batch_id, after=self._after, limit=_PAGE)


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


async def _answer(
    spec: AgentSpec, task: Task, *, model: Model, toolbox: Toolbox, journal: Journal
) -> Answer:
    try:
        history = await asyncio.to_thread(journal.read, task.task_id)
        return await converse(
            spec,
            task,
            model=model,
            toolbox=toolbox,
            record=journal.recorder(task.task_id, following=len(history)),
            history=history,
        )
    except SQLAlchemyError:
        # Without the state database no row can be accounted for: the batch stops, resumable.
        raise
    except Exception as error:  # a row never sinks the batch, not even by a bug of ours
        logger.exception("task %s failed unexpectedly", task.task_id)
        return Answer(task.task_id, "model", error=f"unexpected {type(error).__name__}: {error}")
