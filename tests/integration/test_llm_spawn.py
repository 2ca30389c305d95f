"""A vLLM that runs start for themselves: one for all of them, gone with the last. Takes minutes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from agent_pipelines.local.parts import find
from tests.processes import listening, until

# Slow: it starts a vLLM of its own, and what starts and ends it is that of `run` in test_cli_run.
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

#: Says where its vLLM is, then what that answers to each line that it is given.
RUN = """
import asyncio, json, sys
from resources.llm import LlmResource, Spawn

async def main():
    said = []
    own = LlmResource(name="own", spawn=Spawn(context=1024))
    async with own.open(said.append) as model:
        print(json.dumps({"url": str(model.client.base_url), "gpus": model.gpus}), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            reply = await model.reply(
                [{"role": "user", "content": "Hello!"}],
                temperature=0, completion_tokens=8, options={},
            )
            load = await model.server.load()
            print(json.dumps({
                "tokens": reply.completion_tokens, "tells": load is not None,
                "said": "".join(said),
            }), flush=True)

asyncio.run(main())
"""


@contextmanager
def run(state: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN],
        env={**os.environ, "AGENT_PIPELINES_STATE_DIR": str(state)},
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def told(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"it ended with {process.wait()}"
    return json.loads(line)


def asked(process: "subprocess.Popen[str]") -> Any:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return told(process)


@pytest.mark.timeout(600)
def test_two_runs_share_one_and_the_last_one_ends_it_however_it_ends(tmp_path: Path) -> None:
    with run(tmp_path) as first, run(tmp_path) as second:
        at = told(first)
        assert told(second) == at, "one vLLM for both"
        part = find(tmp_path, "vllm_own")
        assert part is not None
        family = psutil.Process(part.guard).children(recursive=True)
        port = int(at["url"].split(":")[2].split("/")[0])
        answer = asked(first)
        assert answer["tokens"] > 0
        assert answer["tells"], "how busy it is"
        assert "vllm_own is ready after" in answer["said"]
        assert "Application startup complete" in answer["said"], "what it logs itself"
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert asked(second)["tokens"] > 0, "it is not the first one's alone"
        second.send_signal(signal.SIGKILL)
        second.wait()
        until(lambda: find(tmp_path, "vllm_own") is None, 40, "its end")
        until(lambda: not any(map(_runs, family)), 10, "the end of its engine")
        assert not listening(port)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
