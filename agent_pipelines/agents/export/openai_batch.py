"""OpenAI Batch output: one JSON object per line, by which any client of that API reads answers.

Belongs here: the format. Does not belong here: the requests (`tasks/openai_request.py`).

Format: https://platform.openai.com/docs/api-reference/batch/request-output
"""

from pathlib import Path
from typing import Any

from agent_pipelines.agents.export import Row, as_text


class OpenAIBatchWriter:
    """A row that ended ok is a chat completion, every other one an error named by its outcome."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, row: Row) -> None:
        """One line."""
        id_ = f"{row.batch.batch_id}-{row.task.row}"
        ok = row.answer.outcome == "ok"
        line = {
            "id": id_,
            "custom_id": row.task.task_id,
            "response": {"status_code": 200, "request_id": id_, "body": _completion(id_, row)}
            if ok
            else None,
            "error": None
            if ok
            else {"code": row.answer.outcome, "message": row.answer.error or ""},
        }
        self._file.write(as_text(line) + "\n")

    def close(self) -> None:
        """End the file."""
        self._file.close()


def _completion(id_: str, row: Row) -> dict[str, Any]:
    answer = row.answer
    message: dict[str, Any] = {
        "role": "assistant",
        "content": _content(answer.output),
        "refusal": None,
    }
    if answer.citations:
        # Beyond the format: clients keep what they do not know, or pass it over.
        message["citations"] = [citation.as_json() for citation in answer.citations]
    if answer.outcome_unknown:
        message["outcome_unknown"] = list(answer.outcome_unknown)
    if answer.calls_done:
        message["calls_done"] = list(answer.calls_done)
    return {
        "id": id_,
        "object": "chat.completion",
        "created": int(row.finished_at.timestamp()),
        "model": row.batch.model or "",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        },
    }


def _content(output: Any) -> str:
    """An answer that is nothing but a text is that text; any other output is its JSON."""
    match output:
        case {"answer": str(text), **rest} if not rest:
            return text
    return as_text(output)
