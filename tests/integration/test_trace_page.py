"""The trace page of a batch of ten thousand, in a real browser."""

import base64
import json
import shutil
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine, insert

from agent_pipelines.agents.trace_page import write_page
from agent_pipelines.components import agent_trace
from agent_pipelines.errors import UserError
from agent_pipelines.state.engine import open_engine, write
from agent_pipelines.state.tables import answers, batches, messages
from tests.browser import drive

_ROWS = 10_000
_NOW = datetime.now(UTC)

#: What a tool might bring, and no page may ever run.
_HOSTILE = "</script><img src=x onerror='document.title=`taken over`'><script>alert(1)</script>"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    engine = open_engine(f"sqlite:///{tmp_path_factory.mktemp('state') / 'state.db'}")
    batch = {"batch_id": "b-1", "agent": "librarian", "state": "finished", "started_at": _NOW}
    rows = [row(number) for number in range(_ROWS)]
    said = [message for number in range(_ROWS) for message in conversation(number)]
    with write(engine) as connection:
        connection.execute(insert(batches).values(**batch, false_signals=[], finished_at=_NOW))
        connection.execute(insert(answers), rows)
        connection.execute(insert(messages), said)
    return engine


def row(number: int) -> dict[str, Any]:
    failed = number % 100 == 13
    citation = {"chunk_id": f"chunk-{number}", "title": "Restart", "uri": "https://docs/restart"}
    return {
        "batch_id": "b-1",
        "task_id": f"{number:05}",
        "outcome": "tool" if failed else "ok",
        "output": None if failed else {"answer": f"Answer {number}. {_HOSTILE}"},
        "citations": [] if failed else [{**citation, "retrieved": True}],
        "error": "search: tool unavailable" if failed else None,
        "turns": 2,
        "tool_calls": 1,
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "seconds": 1 + number / 1000,
        "false_signals": [],
        "finished_at": _NOW,
    }


def conversation(number: int) -> list[dict[str, Any]]:
    retrieved = {"c1": {"chunk_id": f"chunk-{number}"}}
    said: list[dict[str, Any]] = [
        {"role": "system", "content": "Answer from the manual."},
        {"role": "user", "content": f"Question {number}? {_HOSTILE}"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "search", "arguments": '{"query": "restart"}'}}],
            "trace": {"prompt_tokens": 50, "completion_tokens": 10, "seconds": 0.4},
        },
        {
            "role": "tool",
            "content": f"[c1] Restart\nRestart the pod. {_HOSTILE}\n\n[c2] Other\nSomething else.",
            "trace": {"tool": "search", "is_error": False, "retrieved": retrieved},
        },
    ]
    return [
        {
            "batch_id": "b-1",
            "task_id": f"{number:05}",
            "ordinal": ordinal,
            "message": message,
            "recorded_at": _NOW,
        }
        for ordinal, message in enumerate(said)
    ]


def test_ten_thousand_rows_are_read_filtered_and_opened(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "trace.html"
    assert write_page(engine, "b-1", file) == _ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["trace.html"]
    seen = drive("trace_page.mjs", file, tmp_path / "shot.png")
    assert seen["errors"] == []
    assert seen["all"] == f"{_ROWS} of {_ROWS} answers"
    assert seen["drawn"] < 60, "all rows are in the page at once"
    assert seen["frames"]["last"].startswith("Question 9999?")
    assert seen["worst"] == "tool"
    assert seen["found"] == f"1 of {_ROWS} answers"
    assert seen["conversation"] == ["system", "user", "assistant", "search"]
    assert seen["marked"] == f"[c1] Restart\nRestart the pod. {_HOSTILE}"
    assert seen["failed"] == f"100 of {_ROWS} answers"
    assert seen["markup"] == 0, "what a tool said became markup"


def test_an_answer_that_a_rerun_has_kept_brings_its_conversation(
    engine: Engine, tmp_path: Path
) -> None:
    again = {"batch_id": "b-2", "agent": "librarian", "state": "finished", "rerun_of": "b-1"}
    with write(engine) as connection:
        connection.execute(insert(batches).values(**again, started_at=_NOW, false_signals=[]))
        connection.execute(insert(answers).values({**row(77), "batch_id": "b-2"}))
    file = tmp_path / "trace.html"
    assert write_page(engine, "b-2", file) == 1
    (packed,) = json.loads(file.read_text().split('id="conversations">')[1].split("</script>")[0])
    shown = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert [message["role"] for message in shown["messages"]] == [
        *("system", "user", "assistant", "tool")
    ]


def test_pages_are_kept_as_long_as_their_batches(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_PIPELINES_STATE_DIR", str(tmp_path))
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "forgotten.html").touch()
    assert agent_trace.keep(engine, "b-1") == dg.PathMetadataValue(tmp_path / "traces/b-1.html")
    assert [page.name for page in (tmp_path / "traces").iterdir()] == ["b-1.html"]
    shutil.rmtree(tmp_path / "traces")
    (tmp_path / "traces").touch()
    said = agent_trace.keep(engine, "b-1")
    assert "agent-pipelines trace b-1" in str(said.value)


def test_a_batch_that_is_not_there_or_a_file_that_cannot_be_written(
    engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no batch 'b-9'"):
        write_page(engine, "b-9", tmp_path / "trace.html")
    with pytest.raises(UserError, match="cannot be written"):
        write_page(engine, "b-1", tmp_path / "nowhere" / "trace.html")
    assert list(tmp_path.iterdir()) == []
