"""One request of an OpenAI Batch file as a task.

Belongs here: what of a request a task keeps, ignores and refuses. Does not belong here: reading the
file (`jsonl.py`), or the file that answers it (`agents/export/`).

Format: https://platform.openai.com/docs/api-reference/batch/request-input
"""

from collections.abc import Mapping
from typing import Any

#: Where a request asks for it, and the field of its body that holds what is asked.
_ASKED = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/responses": "input",
}

#: What the agent's YAML decides (model, sampling, limits), and what is for OpenAI's own books.
_IGNORED = {
    *("model", "temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty"),
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "reasoning_effort"),
    *("logprobs", "top_logprobs", "user", "metadata", "store", "service_tier"),
    *("safety_identifier", "prompt_cache_key"),
}


def is_request(row: Any) -> bool:
    """Whether a line is a request, rather than a task's own fields: it has all that one must."""
    return isinstance(row, Mapping) and {"custom_id", "method", "url", "body"} <= set(row)


def fields_of(row: Any) -> dict[str, Any]:
    """The fields of the task: `task_id`, `question`, and `conversation` where there was one.

    Raises:
        ValueError: it is no request, or asks for what an agent does not do.
    """
    if not isinstance(row, Mapping) or not {"custom_id", "body"} <= set(row):
        raise ValueError("it is no OpenAI Batch request: it needs custom_id and body")
    if not isinstance(row["custom_id"], str):
        raise ValueError(f"custom_id must be a text, not {row['custom_id']!r}")
    url, body = row.get("url", "/v1/chat/completions"), row["body"]
    if url not in _ASKED:
        raise ValueError(f"url {url!r} is none of {', '.join(_ASKED)}")
    if row.get("method", "POST") != "POST":
        raise ValueError(f"method must be POST, not {row['method']!r}")
    if not isinstance(body, Mapping):
        raise ValueError("body is no JSON object")
    _refuse(body, _ASKED[url])
    asked = body.get(_ASKED[url])
    if isinstance(asked, str):
        return {"task_id": row["custom_id"], "question": asked}
    question, conversation = _messages(asked, _ASKED[url])
    more = {"conversation": conversation} if conversation else {}
    return {"task_id": row["custom_id"], "question": question, **more}


def _refuse(body: Mapping[str, Any], asked: str) -> None:
    harmless = {"n": 1, "stream": False}
    for name, value in body.items():
        if name == asked or name in _IGNORED or value is None or harmless.get(name) == value:
            continue
        raise ValueError(
            f"body.{name} would make another answer of it than agents give; leave it out (output "
            "schema and tools are in the agent's YAML)"
        )


def _messages(asked: Any, field: str) -> tuple[str, list[dict[str, str]]]:
    """The text of the last message, and role and text of those before it."""
    if not isinstance(asked, list) or not asked:
        raise ValueError(f"body.{field} is neither a text nor a list of messages")
    messages = [_message(message, field) for message in asked]
    if messages[-1]["role"] != "user":
        role = messages[-1]["role"]
        raise ValueError(f"the last message in body.{field} is the {role}'s, not the user's")
    return messages[-1]["content"], messages[:-1]


def _message(message: Any, field: str) -> dict[str, str]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ValueError(f"body.{field} holds what is no message")
    if set(message) - {"role", "content", "name"}:
        raise ValueError(f"a message in body.{field} has more than role and content")
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(_part(part) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"the content of a message in body.{field} is no text")
    return {"role": message["role"], "content": content}


def _part(part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") in ("text", "input_text"):
        return str(part.get("text", ""))
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise ValueError(f"a part of a message is of type {kind!r}; agents read text")
