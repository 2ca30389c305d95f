"""What a person sees of long work: one line that says how far it is, and how it goes."""

import io

import pytest
from rich.console import Console

from agent_pipelines.progress import LogProgress
from agent_pipelines.terminal import TerminalProgress


def test_a_log_has_the_count_and_the_latest_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_pipelines.progress._LOG_EVERY", -1.0)
    said: list[str] = []
    with LogProgress(said.append).stage("answering", 3, "tasks") as stage:
        stage.advance(news="1 ok, 40 tokens/s")
        stage.advance(2, news="2 ok, 1 schema, 41 tokens/s")
    assert said[0] == "answering: 1 of 3 tasks: 1 ok, 40 tokens/s"
    assert said[1] == "answering: 3 of 3 tasks: 2 ok, 1 schema, 41 tokens/s"
    assert said[2].startswith("answering: 3 tasks in ")
    assert said[2].endswith(": 2 ok, 1 schema, 41 tokens/s")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_leaves_the_last_news_behind(terminal: bool) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=120, color_system=None)
    with TerminalProgress(console).stage("answering", 3, "tasks") as stage:
        stage.advance(3, news="2 ok, 1 [schema], 41 tokens/s")
    assert "answering 3 tasks" in shown.getvalue()
    assert shown.getvalue().rstrip().endswith("2 ok, 1 [schema], 41 tokens/s")
