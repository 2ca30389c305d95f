"""What happens in a conversation, told while it happens, as server-sent events.

Belongs here: which events there are, which of them a journalled message is, and their form on the
wire. Does not belong here: who hears them (`conversations.py`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fastapi.sse import format_sse_event

from agent_pipelines.agents.conversation import TRACE
from agent_pipelines.agents.model import Message
from agent_pipelines.agents.modes import Mode

#: waiting: there is no place yet. started: there is one. turn: a reply of the model. tool_call and
#: tool_result: what it asked for, and what that brought. correction: what was wrong with an answer.
#: answer: the last one. problem: the last one, where there is no answer.
Kind = Literal[
    "waiting",
    "started",
    "turn",
    "tool_call",
    "tool_result",
    "correction",
    "answer",
    "problem",
]


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    kind: Kind
    data: dict[str, Any]

    def encoded(self) -> bytes:
        """As it is sent."""
        return format_sse_event(data_str=json.dumps(self.data), event=self.kind)


def events_of(message: Message, mode: Mode) -> Iterator[Event]:
    """What a finished message is, told to somebody who watches; the prompt is nothing new."""
    trace = message.get(TRACE, {})
    if message["role"] == "assistant":
        spent = {name: trace[name] for name in ("prompt_tokens", "completion_tokens", "seconds")}
        yield Event("turn", {"content": message["content"], **spent})
        for call in mode.calls(message):
            asked = {"call_id": call.call_id, "tool": call.tool, "arguments": call.arguments}
            yield Event("tool_call", asked)
    elif "is_error" in trace:
        brought = {"tool": trace["tool"], "is_error": trace["is_error"], "text": message["content"]}
        call_id = message.get("tool_call_id", "")
        yield Event("tool_result", {"call_id": call_id, **brought})
    elif trace.get("corrective"):
        yield Event("correction", {"text": message["content"]})
