"""Why a task is not answered, each in its own words.

Belongs here: what a caller is told in each case. Does not belong here: when that is
(`conversations.py`), or the form of it (`problems.py`).
"""

from sqlalchemy.exc import SQLAlchemyError

from agent_pipelines.agents.tasks import Task
from agent_pipelines.agents.tools import ToolTransportError
from agent_pipelines.api.admission import FullError
from agent_pipelines.api.problems import Problem

#: Seconds after which a signal of an index may read otherwise: a tick.
_NEXT_TICK = 30.0

#: Seconds after which another replica is there, or this one again.
_SOON = 5.0


def conflict(task: Task) -> Problem:
    """The id is that of another task."""
    return Problem(
        409,
        "conflict",
        f"task_id {task.task_id!r} is that of a task with other inputs",
        remedy="give this task another task_id, or none",
    )


def changed(agent: str, task: Task) -> Problem:
    """What was begun cannot be gone on with."""
    return Problem(
        409,
        "changed",
        f"task {task.task_id!r} was begun by agent {agent!r} as it was before it was changed",
        remedy="ask again with another task_id, or none",
    )


def elsewhere(task: Task) -> Problem:
    """Another replica writes the same journal."""
    return Problem(
        409,
        "elsewhere",
        f"task {task.task_id!r} is being answered by another replica",
        remedy="GET it until it is finished",
    )


def busy(full: FullError) -> Problem:
    """No place, and no room to wait."""
    return Problem(
        429,
        "busy",
        "all places are taken, and so is the room to wait for one",
        remedy="ask again after as many seconds as Retry-After says",
        retry_after=full.retry_after,
    )


def not_true(agent: str, index: str, reason: str) -> Problem:
    """The index is not what it says."""
    return Problem(
        503,
        "index",
        f"agent {agent} refuses to work on index {index}: {reason}",
        remedy="see `agent-pipelines status`; ask again once the index is true",
        retry_after=_NEXT_TICK,
    )


def draining() -> Problem:
    """This process is about to end."""
    return Problem(
        503,
        "draining",
        "this server is about to end",
        remedy="ask again, with the same task_id if you gave one: what was begun is resumed",
        retry_after=_SOON,
    )


def left() -> Problem:
    """Nobody hears it."""
    return Problem(499, "left", "nobody waited for the answer", remedy="ask again")


def unreachable(error: ToolTransportError) -> Problem:
    """A tool server does not answer, and never did."""
    remedy = "ask again later; nothing was begun"
    return Problem(503, "unavailable", str(error), remedy=remedy, retry_after=_SOON)


def no_database(error: SQLAlchemyError) -> Problem:
    """Nothing can be kept now."""
    return Problem(
        503,
        "unavailable",
        f"the state database cannot be used: {type(error).__name__}",
        remedy="ask again later: what was begun is resumed",
        retry_after=_SOON,
    )


def unexpected() -> Problem:
    """A bug of ours."""
    return Problem(500, "unexpected", "this is a bug", remedy="see the log of the server")
