"""What is known of the calls of one turn before each of them has its result.

Belongs here: the note in the journal that keeps it. Does not belong here: making the calls
(`conversation.py`).

The results of a turn are journalled in the order of its calls. Where one of them cannot be made
now, the others wait with it: what they brought is set aside, so that none is made twice, and a
call that was not sent is known not to have been.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from agent_pipelines.agents.model import Message
from agent_pipelines.agents.tools import ToolResult

#: The role of a note. It is the harness's word to itself, and never sent to a model.
NOTE = "harness"


@dataclass(frozen=True)
class Called:
    """What a call led to; ``sent``: it reached its server, or may have.

    ``unknown``: the call itself, where nobody knows whether it took effect; ``done``: where it did,
    and may not be repeated.
    """

    result: ToolResult
    sent: bool
    unknown: Mapping[str, Any] | None = None
    done: Mapping[str, Any] | None = None


@dataclass
class Aside:
    """By number of the call in its turn."""

    results: dict[int, Called] = field(default_factory=dict)
    unsent: set[int] = field(default_factory=set)
    """Calls that were to be made, and for certain have not been."""

    def note(self) -> dict[str, Any]:
        """As it goes into the trace of a message; the last note of a turn holds."""
        results = {str(number): asdict(called) for number, called in self.results.items()}
        return {"results": results, "unsent": sorted(self.unsent)}

    @classmethod
    def of(cls, message: Message, trace: Mapping[str, Any]) -> Self | None:
        """What a message of the journal notes, if it is a note."""
        if message["role"] != NOTE:
            return None
        results = {
            int(number): Called(**{**called, "result": ToolResult(**called["result"])})
            for number, called in trace["results"].items()
        }
        return cls(results, set(trace["unsent"]))
