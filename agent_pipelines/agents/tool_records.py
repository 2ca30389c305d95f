"""Counts of tool calls and states of breakers in the state database, for those who watch.

Belongs here: adding to them while a batch runs, and reading them. Does not belong here: counting
(`tally.py`), or how they are shown (`commands/tool_samples.py`).

A batch ends, and nobody could ask it any more what it counted; what is added up here only grows,
as a counter should.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, select

from agent_pipelines.agents.breaker import Breaker, BreakerState
from agent_pipelines.agents.tally import Counted, Sum, Tally
from agent_pipelines.errors import UnavailableError
from agent_pipelines.state.engine import read, write
from agent_pipelines.state.tables import tool_breakers, tool_calls
from agent_pipelines.state.upsert import upsert

logger = logging.getLogger(__name__)

#: Seconds between two writes; kill -9 loses what was counted since the last.
_EVERY = 5.0

#: What was last heard of a breaker longer ago than this is of a worker that has ended.
_HEARD_OF = timedelta(minutes=1)


@asynccontextmanager
async def recorded(
    engine: Engine, agent: str, tally: Tally, breakers: Mapping[str, Breaker]
) -> AsyncIterator[None]:
    """Keep what is counted and how the breakers are, while the block lasts and at its end.

    Where the state database cannot be used, what was counted waits for the next time.
    """
    ending = asyncio.Event()

    async def add() -> None:
        new = tally.take_new()
        states = {server: breaker.state for server, breaker in breakers.items()}
        try:
            await asyncio.to_thread(_add, engine, agent, new, states)
        except UnavailableError as error:
            tally.put_back(new)
            logger.warning("counts of tool calls are not kept now: %s", error.message)

    async def keep() -> None:
        while not ending.is_set():
            await add()
            try:
                await asyncio.wait_for(ending.wait(), _EVERY)
            except TimeoutError:
                continue
        await add()

    keeper = asyncio.create_task(keep())
    try:
        yield
    finally:
        ending.set()
        await keeper


def read_calls(engine: Engine) -> Mapping[Counted, Sum]:
    """All calls there ever were.

    Raises:
        UnavailableError: the state database does not answer.
    """
    with read(engine) as connection:
        rows = connection.execute(select(tool_calls)).all()
    return {
        Counted(row.server, row.tool, row.outcome, float(row.bound) if row.bound else None): Sum(
            row.calls, row.seconds
        )
        for row in rows
    }


def read_breakers(engine: Engine, now: datetime) -> Sequence[tuple[str, str, BreakerState]]:
    """Agent, server and state of each breaker of a worker that is at work.

    Raises:
        UnavailableError: the state database does not answer.
    """
    row = tool_breakers.c
    query = select(row.agent, row.server, row.state).where(row.seen_at > now - _HEARD_OF)
    with read(engine) as connection:
        return [(found.agent, found.server, found.state) for found in connection.execute(query)]


def _add(
    engine: Engine, agent: str, new: Mapping[Counted, Sum], states: Mapping[str, BreakerState]
) -> None:
    calls = [
        {
            "server": counted.server,
            "tool": counted.tool,
            "outcome": counted.outcome,
            "bound": "" if counted.bound is None else _bound(counted.bound),
            "calls": amount.calls,
            "seconds": amount.seconds,
        }
        for counted, amount in new.items()
    ]
    now = datetime.now(UTC)
    breakers = [
        {"agent": agent, "server": server, "state": state, "seen_at": now}
        for server, state in states.items()
    ]
    with write(engine) as connection:
        upsert(connection, tool_calls, calls, overwrite=(), add=("calls", "seconds"))
        upsert(connection, tool_breakers, breakers, overwrite=("state", "seen_at"))


def _bound(bound: float) -> str:
    return "inf" if bound == math.inf else f"{bound:g}"
