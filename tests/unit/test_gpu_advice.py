"""What a batch took of its model server, and what it says of the next claim."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert
from typer.testing import CliRunner

from agent_pipelines.agents.load import Load
from agent_pipelines.agents.served import Counters, Histogram, Reading, Served, observed
from agent_pipelines.agents.use import Use, record_use, recorded_use
from agent_pipelines.cli import app
from agent_pipelines.errors import UserError
from agent_pipelines.gpu.advice import advise
from agent_pipelines.gpu.memory import Need
from agent_pipelines.gpu.model import ModelShape, read_shape
from agent_pipelines.settings import Settings
from agent_pipelines.state.engine import open_engine
from agent_pipelines.state.tables import batches
from resources.llm_metrics import parsed
from tests.models import write_model
from tests.vllm_metrics import told

#: Of a KV cache that holds eight conversations of 4,096 tokens, half was taken.
HALF = Use(
    kv_cache_tokens=32768,
    kv_cache_peak=0.5,
    preemptions=0,
    most_waiting=0,
    stream_tokens_per_second=40.0,
    ttft_p95_seconds=0.4,
    gpus=1,
)
NEED = Need(context=4096, concurrency=8)


@pytest.fixture
def shape(tmp_path: Path) -> ModelShape:
    return read_shape(write_model(tmp_path / "llama", "Llama-3.1-8B"), "Llama-3.1-8B")


def test_a_cache_that_stays_half_empty_may_be_smaller(shape: ModelShape) -> None:
    found = advise(HALF, shape, NEED)
    assert found.verdict == "smaller"
    assert found.need == replace(NEED, concurrency=5), "what was taken, and a quarter more"
    assert found.reasons == (
        "at most 16,384 of the 32,768 tokens of the KV cache were taken (50%): 5 conversations of "
        "4,096 tokens",
    )


def test_a_cache_that_was_full_is_too_small(shape: ModelShape) -> None:
    full = replace(HALF, kv_cache_peak=1.0, preemptions=7, most_waiting=3)
    found = advise(full, shape, NEED)
    assert (found.verdict, found.need.concurrency) == ("larger", 12)
    assert "7 requests were put back for want of it, and up to 3 waited" in found.reasons[0]
    # Nobody waited, and there was no room for one more.
    assert advise(replace(HALF, kv_cache_peak=0.97), shape, NEED).verdict == "larger"
    assert advise(replace(HALF, kv_cache_peak=0.7), shape, NEED).verdict == "as it is"


def test_too_slow_is_said_with_the_bandwidth_that_it_came_to(shape: ModelShape) -> None:
    wanted = replace(NEED, tokens_per_second=50.0)
    found = advise(replace(HALF, kv_cache_peak=0.7), shape, wanted)
    assert found.verdict == "larger"
    # 16.1 GB of weights and 3.0 of KV cache, forty times a second.
    assert found.reasons[1].startswith("40.0 tokens/s of 50: at most 763 GB/s were read")


def test_a_batch_that_was_cut_off_keeps_the_most_of_its_runs(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/state.db")
    add_batch(engine, "b1")
    assert recorded_use(engine, "b1") is None
    record_use(engine, "b1", replace(HALF, preemptions=2, most_waiting=9))
    record_use(engine, "b1", replace(HALF, kv_cache_peak=0.8, preemptions=1))
    found = recorded_use(engine, "b1")
    assert found == replace(HALF, kv_cache_peak=0.8, preemptions=3, most_waiting=9)
    # Another server: what the first one had says nothing any more.
    other = replace(HALF, kv_cache_tokens=1000)
    record_use(engine, "b1", other)
    assert recorded_use(engine, "b1") == other


class Told:
    """A server that told what was recorded, one thing after another."""

    def __init__(self, *recorded: str) -> None:
        self._left = list(recorded)

    async def read(self) -> Reading | None:
        return parsed(told(self._left.pop(0)))

    async def load(self) -> Load | None:
        raise NotImplementedError


def test_the_fullest_that_its_cache_was_is_seen() -> None:
    async def main() -> Served | None:
        async with observed(Told("idle", "busy")) as observation:
            pass
        return observation.served

    served = asyncio.run(main())
    assert served is not None
    assert served.kv_cache_peak == pytest.approx(0.0165, abs=1e-4)
    assert served.kv_cache_tokens == 46592


def test_a_server_that_does_not_say_how_large_it_is_is_not_recorded() -> None:
    counters = Counters(ttft=Histogram({1.0: 10.0}, 4.0), preemptions=2.0)
    served = Served(10.0, counters, most_waiting=1, kv_cache_peak=0.5, kv_cache_tokens=32768)
    found = Use.of(served, gpus=2)
    assert found is not None
    assert (found.kv_cache_peak, found.preemptions, found.gpus) == (0.5, 2, 2)
    assert Use.of(replace(served, kv_cache_tokens=None), gpus=2) is None


def add_batch(engine: Engine, batch_id: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            insert(batches).values(
                batch_id=batch_id,
                agent="clerk",
                state="finished",
                false_signals=[],
                started_at=datetime.now(UTC),
            )
        )


LLM = """\
type: agent_pipelines.components.LlmComponent
attributes:
  server: {kind: spawn, model: ./model, context: 4096, claim: {concurrency: 40}}
"""
AGENT = """\
type: agent_pipelines.components.AgentComponent
attributes: {instructions: Answer., llm: big}
"""


def test_the_next_claim_follows_from_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_PIPELINES_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("STATE_DATABASE_URL", raising=False)
    assets = tmp_path / "assets"
    for name, text in (("big", LLM), ("clerk", AGENT)):
        (assets / name).mkdir(parents=True)
        (assets / name / "defs.yaml").write_text(text)
    write_model(assets / "big" / "model", "Llama-3.1-8B")
    engine = open_engine(Settings().database_url)
    add_batch(engine, "b1")
    add_batch(engine, "b2")
    record_use(engine, "b1", HALF)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["claim", *arguments, "--assets", str(assets)])

    now = json.loads(run("clerk", "--json").stdout)
    then = json.loads(run("--from-batch", "b1", "--json").stdout)
    assert (then["verdict"], then["concurrency"]) == ("smaller", 5)
    assert [(t["tiers"][0][0]["device"], t["tiers"][0][0]["count"]) for t in (now, then)] == [
        ("L4", 2),
        ("L4", 1),
    ]
    assert run("--from-batch", "b1").stdout.startswith("# smaller than now\n# at most 16,384 of")
    for batch, said in (
        ("b2", "what batch b2 took of its model server is not on record"),
        ("b3", "there is no batch 'b3'"),
    ):
        done = run("--from-batch", batch)
        assert isinstance(done.exception, UserError)
        assert said in done.exception.message
