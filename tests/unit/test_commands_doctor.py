"""What `doctor` finds wrong is what somebody needs."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from agent_pipelines.commands.doctor import Finding, examine
from agent_pipelines.settings import Settings

AGENT = "type: agent_pipelines.components.AgentComponent\nattributes: {instructions: Answer."
GATEWAY = (
    "type: agent_pipelines.components.LlmComponent\n"
    "attributes: {server: {kind: endpoint, url: 'http://127.0.0.1:9/v1', model: big}}"
)


@pytest.fixture
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def found(name: str, *more: Any) -> Any:
        return None if name == "vllm" else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", found)


def model_server(folder: Path, **llms: str) -> Finding:
    """What is found of it where there is an agent with each of these."""
    files = {"gateway/defs.yaml": GATEWAY}
    for agent, llm in llms.items():
        files[f"{agent}/defs.yaml"] = f"{AGENT}, llm: {llm}}}\n"
        files[f"{agent}/tasks.jsonl"] = '{"question": "x"}\n'
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (found,) = (each for each in examine(Settings(), folder) if each.subject == "model server")
    return found


@pytest.mark.usefixtures("without_vllm")
def test_a_vllm_that_no_agent_would_use_is_not_missing(tmp_path: Path) -> None:
    assert model_server(tmp_path, clerk="gateway").ok
    missing = model_server(tmp_path, clerk="gateway", librarian="llm")
    assert "vLLM is not installed" in missing.observed
    assert "LLM_BASE_URL" in (missing.remedy or "")
