"""A batch as one HTML file that opens anywhere: its rows, and each conversation in full.

Belongs here: what of a batch is shown, and writing it. Does not belong here: how it looks and is
used (`trace_page.html`), or where the file goes.

Everything that models and tools said is data in the page, never markup. Conversations are packed
one by one, and unpacked when somebody opens them: ten thousand fit, and stay fluid.
"""

import base64
import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, Engine, select

from agent_pipelines.agents.answer import Answer
from agent_pipelines.agents.answers import outcomes, read_answers
from agent_pipelines.agents.aside import NOTE
from agent_pipelines.agents.conversation import TRACE
from agent_pipelines.errors import UserError
from agent_pipelines.state.tables import batches, messages

#: Characters of a task and of its answer that the list of rows shows, and that can be searched.
_SHOWN = 300

#: Conversations that are held in memory at once.
_AT_ONCE = 100


def write_page(engine: Engine, batch_id: str, file: Path) -> int:
    """Write the page of a batch, finished or not; whole or not at all.

    Returns:
        How many answers it shows.

    Raises:
        UserError: there is no such batch, or the file cannot be written.
    """
    head = _head(engine, batch_id)
    template = resources.files(__package__).joinpath("trace_page.html").read_text("utf-8")
    before, rest = template.split("/*batch*/")
    between, rest = rest.split("/*rows*/")
    until, after = rest.split("/*conversations*/")
    made: Path | None = None
    try:
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8") as packed,
            tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=file.parent, prefix=f".{file.name}-", delete=False
            ) as page,
        ):
            made = Path(page.name)
            page.write(before + _json(head) + between)
            shown = _write_rows(engine, batch_id, page, packed)
            page.write(until)
            packed.seek(0)
            for piece in iter(lambda: packed.read(1 << 20), ""):
                page.write(piece)
            page.write(after)
        made.chmod(0o644)
        os.replace(made, file)
    except OSError as error:
        raise UserError(
            f"the trace page cannot be written to {file}: {error.strerror or error}",
            remedy="name a file in a folder that is there and can be written to",
        ) from error
    finally:
        if made is not None:
            with suppress(FileNotFoundError):
                made.unlink()
    return shown


def _head(engine: Engine, batch_id: str) -> dict[str, Any]:
    with engine.connect() as connection:
        batch = connection.execute(select(batches).where(batches.c.batch_id == batch_id)).first()
    if batch is None:
        raise UserError(
            f"there is no batch {batch_id!r}",
            remedy="name one that `agent-pipelines status` or a batch's run tells",
        )
    facts = {
        "state": batch.state,
        "started": f"{batch.started_at:%Y-%m-%d %H:%M} UTC",
        **({"finished": f"{batch.finished_at:%Y-%m-%d %H:%M} UTC"} if batch.finished_at else {}),
        **({"index": f"{batch.index_name}, snapshot {batch.sequence}"} if batch.index_name else {}),
        "answers": str(outcomes(engine, batch_id).total()),
    }
    return {"id": batch_id, "agent": batch.agent, "facts": facts}


def _write_rows(engine: Engine, batch_id: str, page: IO[str], packed: IO[str]) -> int:
    """Rows go to the page at once; conversations, which stand behind all of them, aside."""
    shown = 0
    for shown, (answer, said) in enumerate(_conversations(engine, batch_id), start=1):
        start = "[" if shown == 1 else ","
        page.write(start + _json(_row(answer, said)))
        packed.write(start + _json(_packed(answer, said)))
    for file in (page, packed):
        file.write("]" if shown else "[]")
    return shown


def _conversations(
    engine: Engine, batch_id: str
) -> Iterator[tuple[Answer, Sequence[Mapping[str, Any]]]]:
    """Each answer with its journal, which of one that a rerun has kept is in an earlier batch."""
    answered = read_answers(engine, batch_id)
    with engine.connect() as connection:
        batch_ids = list(_with_earlier(connection, batch_id))
        while some := list(islice(answered, _AT_ONCE)):
            said: dict[str, Sequence[Mapping[str, Any]]] = {}
            for id_ in batch_ids:
                ids = [answer.task_id for answer in some if answer.task_id not in said]
                if not ids:
                    break
                query = (
                    select(messages.c.task_id, messages.c.message, messages.c.recorded_at)
                    .where(messages.c.batch_id == id_, messages.c.task_id.in_(ids))
                    .order_by(messages.c.task_id, messages.c.ordinal)
                )
                journals = groupby(connection.execute(query), key=lambda row: row.task_id)
                said |= {task_id: _messages(journal) for task_id, journal in journals}
            for answer in some:
                yield answer, said.get(answer.task_id, ())


def _with_earlier(connection: Connection, batch_id: str) -> Iterator[str]:
    """The batch, and those whose failed rows it answered anew, newest first."""
    earlier: str | None = batch_id
    while earlier is not None:
        yield earlier
        query = select(batches.c.rerun_of).where(batches.c.batch_id == earlier)
        earlier = connection.execute(query).scalar_one_or_none()


def _messages(journalled: Iterable[Any]) -> Sequence[Mapping[str, Any]]:
    """The messages of one conversation as the page shows them."""
    shown, before = [], None
    for row in journalled:
        message = row.message
        if message["role"] == NOTE:
            continue
        trace = message.get(TRACE, {})
        took = trace.get("seconds")
        if took is None and "tool" in trace and before is not None:
            took = round((row.recorded_at - before).total_seconds(), 3)
        before = row.recorded_at
        shown.append(
            {
                "role": message["role"],
                "text": message["content"],
                "calls": [
                    f"{call['function']['name']}({call['function']['arguments']})"
                    for call in message.get("tool_calls", ())
                ],
                "tool": trace.get("tool"),
                "wrong": bool(trace.get("is_error")),
                "took": took,
                "tokens": trace.get("prompt_tokens", 0) + trace.get("completion_tokens", 0),
                "refs": {
                    ref: found["chunk_id"] for ref, found in trace.get("retrieved", {}).items()
                },
            }
        )
    return shown


def _row(answer: Answer, said: Sequence[Mapping[str, Any]]) -> list[Any]:
    asked = next((m["text"] for m in said if m["role"] == "user"), answer.task_id)
    told = answer.error if answer.output is None else _told(answer.output)
    return [
        answer.task_id,
        answer.outcome,
        asked[:_SHOWN],
        (told or "")[:_SHOWN],
        answer.turns,
        answer.tool_calls,
        answer.prompt_tokens + answer.completion_tokens,
        round(answer.seconds, 2),
        len(answer.citations),
        sum(not citation.retrieved for citation in answer.citations),
        ", ".join(answer.false_signals),
    ]


def _told(output: Any) -> str:
    if isinstance(output, Mapping) and isinstance(text := output.get("answer"), str):
        return text
    return json.dumps(output, ensure_ascii=False)


def _packed(answer: Answer, said: Sequence[Mapping[str, Any]]) -> str:
    whole = {
        "messages": said,
        "answer": {
            "output": answer.output,
            "error": answer.error,
            "citations": [citation.as_json() for citation in answer.citations],
        },
    }
    return base64.b64encode(zlib.compress(json.dumps(whole).encode())).decode()


def _json(value: Any) -> str:
    """As it may stand within a script element, which the first `</` would end."""
    return json.dumps(value).replace("<", "\\u003c")
