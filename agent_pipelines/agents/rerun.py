"""Answering anew what failed: a batch of the same tasks that starts with the good answers.

Belongs here: opening such a batch. Does not belong here: running it, which is as for any other
(`batch.py`).

The earlier batch stays as it was, its failed answers and all journals with it. The new one has all
of its tasks, and its good answers with whatever was recorded of them, so that report, checks and
export are of the whole; the failed rows are begun from nothing, but for those of which a call that
may not be repeated was made, or may have been: they stay as they are.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import (
    ColumnElement,
    Engine,
    Insert,
    String,
    Table,
    cast,
    insert,
    literal,
    or_,
    select,
)

from agent_pipelines.agents.answers import outcomes
from agent_pipelines.agents.batches import Batch, Snapshot, newest
from agent_pipelines.agents.lifecycle import new_id, reopen, work_of
from agent_pipelines.agents.spec import AgentSpec
from agent_pipelines.errors import UserError
from agent_pipelines.state.engine import write
from agent_pipelines.state.tables import answers, batches
from agent_pipelines.state.tables import tasks as staged


def rerun_failed(
    engine: Engine,
    spec: AgentSpec,
    *,
    model: str,
    snapshot: Snapshot | None = None,
    false_signals: Sequence[str] = (),
    partition: str = "",
) -> Batch:
    """A batch that answers anew what did not end ok in the newest finished one of the agent.

    Cut off, it is found again by the next call, as long as agent, model and snapshot are the same.
    Where nothing failed it is that earlier batch itself, which has nothing left to answer.

    Raises:
        UserError: no batch has finished yet, or not all of it is on record any more.
    """
    earlier = newest(engine, spec.name, partition=partition, finished=True)
    counts = outcomes(engine, earlier.batch_id) if earlier else Counter[str]()
    tasks = counts.total()
    if earlier is None or earlier.tasks != tasks:
        raise UserError(
            f"agent {spec.name} has no finished batch on record, or not the whole of it, whose "
            "failed rows could be answered anew",
            remedy=f"run `agent-pipelines batch {spec.name}` without --rerun-failed",
        )
    of = earlier.batch_id
    if counts["ok"] == tasks:
        return Batch(of, tasks, snapshot, tuple(false_signals), tasks)
    work = work_of(spec, model, snapshot, partition, rerun_of=of)
    batch_id = new_id()
    # One transaction, all of it inside the database: 100,000 rows take it a second or two.
    with write(engine) as connection:
        found = reopen(connection, spec.name, work)
        if found is None:
            connection.execute(
                insert(batches).values(
                    batch_id=batch_id,
                    agent=spec.name,
                    state="running",
                    work=str(work),
                    tasks=tasks,
                    model=model,
                    partition=partition,
                    rerun_of=of,
                    index_name=snapshot.index if snapshot else None,
                    sequence=snapshot.sequence if snapshot else None,
                    false_signals=list(false_signals),
                    started_at=datetime.now(UTC),
                )
            )
            connection.execute(_copied(staged, of, batch_id))
            kept = connection.execute(_copied(answers, of, batch_id, _is_kept()))
            found = batch_id, kept.rowcount
    return Batch(found[0], tasks, snapshot, tuple(false_signals), found[1])


def _is_kept() -> ColumnElement[bool]:
    """Good answers; and those for which a call that may not be repeated was made, or may have
    been, for to answer them anew is to repeat it."""
    calls = (answers.c.outcome_unknown, answers.c.calls_done)
    made = (cast(column, String).not_in(("[]", "null")) for column in calls)
    return or_(answers.c.outcome == "ok", *made)


def _copied(table: Table, of: str, to: str, *conditions: ColumnElement[bool]) -> Insert:
    """Every row of one batch, as one of another."""
    others = [column for column in table.columns if column.name != "batch_id"]
    rows = select(literal(to), *others).where(table.c.batch_id == of, *conditions)
    return insert(table).from_select(["batch_id", *(column.name for column in others)], rows)
