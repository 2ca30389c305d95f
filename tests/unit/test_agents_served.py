"""What a model server says of itself, from the text of a real vLLM to checks and targets."""

import asyncio
import math

import pytest

from agent_pipelines.agents.load import Load
from agent_pipelines.agents.served import Counters, Histogram, Reading, Served, observed
from agent_pipelines.agents.targets import PROFILES, Targets
from agent_pipelines.components import llm_checks
from resources.llm_metrics import address, parsed, parsed_load
from tests.vllm_metrics import told


def read(name: str) -> Reading:
    reading = parsed(told(name))
    assert reading is not None
    return reading


def test_vllm_s_own_words_are_understood() -> None:
    idle, busy, after = read("idle"), read("busy"), read("after")
    assert idle.load == parsed_load(told("idle")) == Load(0, 0.0, 0)
    assert idle.counters.ttft.count == idle.counters.generated == 0
    assert busy.load.waiting > 0
    assert 0 < busy.load.kv_cache < 1
    assert after.counters.ttft.count == 24
    # Of each answer all tokens but the first came some time after another one.
    assert after.counters.inter_token.count == after.counters.generated - 24
    assert 0 < after.counters.prefix_hits < after.counters.prefix_queries


@pytest.mark.parametrize("text", ["", "<html>Please log in.</html>", "# TYPE up gauge\nup 1\n"])
def test_what_is_not_vllm_s_tells_nothing(text: str) -> None:
    assert parsed(text) is None
    assert parsed_load(text) is None


def test_engines_behind_one_address_are_added_up() -> None:
    text = told("busy")
    two = "\n".join(
        line + ("\n" + line.replace('engine="0"', 'engine="1"') if 'engine="0"' in line else "")
        for line in text.splitlines()
    )
    one, both = read("busy"), parsed(two + "\n")
    assert both is not None
    assert both.load.waiting == 2 * one.load.waiting
    assert both.load.kv_cache == one.load.kv_cache, "the fullest one's"
    assert both.counters.ttft.count == 2 * one.counters.ttft.count
    assert both.counters.ttft.quantile(0.95) == one.counters.ttft.quantile(0.95)


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("http://vllm:8000/v1", "http://vllm:8000/metrics"),
        ("http://vllm:8000/v1/", "http://vllm:8000/metrics"),
        ("https://gateway/team/v1", "https://gateway/team/metrics"),
        ("https://gateway/openai", "https://gateway/openai/metrics"),
    ],
)
def test_metrics_are_beside_the_v1(base_url: str, expected: str) -> None:
    assert address(base_url) == expected


def test_a_quantile_lies_where_promql_has_it() -> None:
    """The figures are those of `histogram_quantile` of Prometheus for the same buckets."""
    seconds = Histogram({0.25: 10, 0.5: 90, 1.0: 96, math.inf: 100}, 40.0)
    assert seconds.quantile(0.5) == pytest.approx(0.375)
    assert seconds.quantile(0.05) == pytest.approx(0.125), "the first bucket begins at 0"
    assert seconds.quantile(0.95) == pytest.approx(0.5 + 0.5 * 5 / 6)
    assert seconds.quantile(0.99) == 1.0, "of what is beyond the last bound nothing is known"
    assert Histogram().quantile(0.95) is None


def test_only_what_was_counted_meanwhile_counts() -> None:
    slow = Counters(ttft=Histogram({1.0: 0, 10.0: 50, math.inf: 50}, 400), generated=1000)
    then = Counters(ttft=Histogram({1.0: 10, 10.0: 50, math.inf: 60}, 490), generated=1500)
    found = then.since(slow)
    assert (found.ttft.count, found.ttft.mean, found.generated) == (10, 9.0, 500)
    restarted = Counters(ttft=Histogram({1.0: 5, 10.0: 5, math.inf: 5}, 2), generated=80)
    assert restarted.since(slow) == restarted


class Scripted:
    """A server that says one thing after another, and then the last one for ever."""

    def __init__(self, *readings: Reading | None) -> None:
        self._readings = list(readings)

    async def read(self) -> Reading | None:
        return self._readings.pop(0) if len(self._readings) > 1 else self._readings[0]

    async def load(self) -> Load | None:
        reading = await self.read()
        return reading.load if reading else None


def watched(seen: Scripted) -> Served:
    """What a batch sees that lasts until the last reading."""

    async def main() -> Served | None:
        async with observed(seen) as observation:
            while len(seen._readings) > 1:
                await asyncio.sleep(0.001)
        return observation.served

    served = asyncio.run(main())
    assert served is not None
    return served


def test_a_batch_sees_the_most_that_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_pipelines.agents.served._LOOK_EVERY", 0.001)
    idle, busy, after = read("idle"), read("busy"), read("after")
    seen = Scripted(idle, idle, busy, None, after)

    served = watched(seen)
    assert served.most_waiting == busy.load.waiting
    assert served.counters == after.counters.since(idle.counters)
    assert served.prefix_hit_rate == pytest.approx(
        after.counters.prefix_hits / after.counters.prefix_queries
    )


def test_a_server_that_is_started_anew_meanwhile_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Away for a while, it has counted from 0 since; what came before that is not forgotten."""
    monkeypatch.setattr("agent_pipelines.agents.served._LOOK_EVERY", 0.001)

    def at(count: float, tokens: float) -> Reading:
        ttft = Histogram({1.0: count, math.inf: count}, count / 2)
        return Reading(read("idle").load, Counters(ttft=ttft, generated=tokens))

    seen = Scripted(at(100, 9_000), at(130, 9_500), None, at(5, 80), at(25, 380))

    served = watched(seen)
    assert served.counters.generated == 500 + 80 + 300
    assert (served.counters.ttft.count, served.counters.ttft.mean) == (30 + 5 + 20, 0.5)


def test_a_server_is_read_once_for_all_who_want_to_know() -> None:
    busy = read("busy")

    async def main() -> None:
        seen = Scripted(busy, Reading(read("idle").load, busy.counters))
        async with observed(seen) as observation:
            assert [await observation.load() for _ in range(3)] == [busy.load] * 3
            assert len(seen._readings) == 1

    asyncio.run(main())


def test_a_server_that_does_not_tell_disturbs_nothing() -> None:
    async def main() -> Served | None:
        async with observed(Scripted(None)) as observation:
            pass
        return observation.served

    assert asyncio.run(main()) is None


def test_a_cpu_has_targets_of_its_own_and_an_agent_may_set_any() -> None:
    assert Targets().on(gpus=None) == Targets().on(gpus=2) == PROFILES["gpu"]
    assert Targets().on(gpus=0) == PROFILES["cpu"]
    assert Targets(profile="cpu").on(gpus=None) == PROFILES["cpu"]
    own = Targets(waiting=3).on(gpus=1)
    assert (own.waiting, own.ttft_p95_seconds) == (3, 0.5)


def test_targets_that_are_missed_warn_and_what_nobody_told_is_not_passed() -> None:
    counters = read("after").counters
    served = Served(10.0, counters, most_waiting=10)
    found = {check.check_name: check for check in llm_checks.results(served, Targets(), gpus=1)}
    assert [check.passed for check in found.values()] == [False] * 3, "a laptop is no GPU"
    assert found["queue"].description == "at most 10 waited, target < 10"
    assert all(str(check.severity) == "AssetCheckSeverity.WARN" for check in found.values())
    untold = list(llm_checks.results(None, Targets(), gpus=None))
    assert [check.passed for check in untold] == [False] * 3
    assert {(check.description or "")[:11] for check in untold} == {"cannot tell"}


def test_gpu_seconds_are_of_all_gpus_and_of_this_run_s_answers() -> None:
    shown = llm_checks.metadata(None, Targets(), 4, seconds=30.0, answers=60)
    assert shown == {"targets": "gpu", "gpus": 4, "gpu_seconds_per_answer": 2.0}
    assert "gpu_seconds_per_answer" not in llm_checks.metadata(
        None, Targets(), 0, seconds=30.0, answers=60
    )
