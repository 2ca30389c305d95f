"""The packaged LLM, converted for real, answering through a real vLLM. Takes minutes on a CPU."""

import json
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from openai import OpenAI
from openai.types.shared_params import ResponseFormatJSONSchema

from agent_pipelines.local import models, vllm
from agent_pipelines.local.parts import Parts, find
from agent_pipelines.settings import Settings

# Slow: what `run` shows of it in test_cli_run is enough for every day.
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CALL: ResponseFormatJSONSchema = {
    "type": "json_schema",
    "json_schema": {
        "name": "call",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "tool": {"type": "string", "enum": ["search", "answer"]},
                "query": {"type": "string", "maxLength": 80},
            },
            "required": ["tool", "query"],
            "additionalProperties": False,
        },
    },
}


def test_the_packaged_llm_gives_a_structured_answer_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    model = models.packaged_llm(Settings().cache_dir, print)
    with Parts(tmp_path) as parts:
        at = parts.ensure("vllm", lambda: vllm.launch(model, tmp_path), progress=print)
        part = find(tmp_path, "vllm")
        assert part is not None
        family = psutil.Process(part.guard).children(recursive=True)
        assert len(family) > 2, "an engine beside the server"
        llm = OpenAI(base_url=at["url"], api_key="none", max_retries=0, timeout=120)
        answer = llm.chat.completions.create(
            model=at["model"],
            messages=[
                {
                    "role": "user",
                    "content": "Find documents on restarting the payments.",
                }
            ],
            temperature=0,
            max_tokens=128,
            response_format=CALL,
        ).choices[0]
        assert answer.finish_reason == "stop"
        content = answer.message.content or ""
        assert set(json.loads(content)) == {"tool", "query"}
        assert "\n" not in content
    _, alive = psutil.wait_procs(family, timeout=1)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    log = (tmp_path / "logs" / "vllm.log").read_text()
    assert "EngineDeadError" not in log


def test_conversion_happens_once(tmp_path: Path) -> None:
    said: list[str] = []
    cache = Settings().cache_dir
    models.packaged_llm(cache, lambda _: None)
    assert (models.packaged_llm(cache, said.append) / "model.safetensors").exists()
    assert not said
