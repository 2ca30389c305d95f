"""What comes of one task, whatever happened.

Belongs here: an answer, and how its end is classed. Does not belong here: coming to it
(`conversation.py`), or keeping it (`answers.py`).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent_pipelines.agents.citations import Citation

logger = logging.getLogger(__name__)

Outcome = Literal["ok", "model", "tool", "transport", "budget", "schema", "refused"]


@dataclass(frozen=True)
class Answer:
    """The result of one task. Whatever happened, there is one."""

    task_id: str
    outcome: Outcome
    output: Any = None
    citations: Sequence[Citation] = ()
    error: str | None = None
    turns: int = 0
    tool_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    sequence: int | None = None
    """The snapshot it rests on, where it retrieved anything."""
    false_signals: Sequence[str] = ()
    """Signals of the index that were not true when it was given."""
    outcome_unknown: Sequence[Mapping[str, Any]] = ()
    """Calls (tool, arguments) that were sent once, and nobody knows whether they took effect."""
    calls_done: Sequence[Mapping[str, Any]] = ()
    """Calls (tool, arguments) that took effect, and may not be repeated."""


def unexpected(task_id: str, error: Exception) -> Answer:
    """What comes of a bug of ours; called while it is handled, for the log."""
    logger.exception("task %s failed unexpectedly", task_id)
    return Answer(task_id, "model", error=f"unexpected {type(error).__name__}: {error}")
