"""Which devices a plan asks for, in which order, and what it refuses."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent_pipelines.errors import UserError
from agent_pipelines.gpu.devices import CATALOGUE, GIB, DeviceConfig, known_devices
from agent_pipelines.gpu.memory import Need, kv_cache_bytes, memory, usable
from agent_pipelines.gpu.model import ModelShape, read_shape
from agent_pipelines.gpu.plan import COUNTS, MOST_TIERS, Choice, Plan, plan
from agent_pipelines.gpu.speed import speed
from tests.models import write_model

EIGHT = Need(context=4096, concurrency=4)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelShape]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: read_shape(write_model(folder / name, name), name)
        for name in ("Llama-3.1-8B", "Llama-3.1-70B", "DeepSeek-V3", "Gemma-2-27B", "Phi-4")
    }


def names(found: Plan) -> list[str]:
    return ["|".join(str(choice) for choice in tier.choices) for tier in found.tiers]


def choices(found: Plan) -> list[Choice]:
    return [choice for tier in found.tiers for choice in tier.choices]


def test_an_8b_model_is_asked_for_on_24_gb_before_anything_larger(
    shapes: dict[str, ModelShape],
) -> None:
    found = plan(shapes["Llama-3.1-8B"], EIGHT)
    assert names(found)[:2] == ["one L4", "one A10|one A10G"]
    small = [n for n, tier in enumerate(found.tiers) if tier.choices[0].device.memory < 24 * GIB]
    large = [
        n
        for n, tier in enumerate(found.tiers)
        if any(choice.device.memory > 70 * GIB for choice in tier.choices)
    ]
    assert max(small) < min(large), "no 80 GB card while one of 24 GB is free"


def test_70b_in_16_bits_on_one_card_of_24_gb_is_refused_with_the_arithmetic(
    shapes: dict[str, ModelShape],
) -> None:
    with pytest.raises(UserError) as refused:
        plan(shapes["Llama-3.1-70B"], Need(context=8192), fleet={"A10": 1})
    assert refused.value.message == (
        "Llama-3.1-70B cannot be served by one A10. A10: too small: 137.8 GiB, and vLLM may take "
        "20.7. On one A10: 131.4 weights + 2.5 KV cache + 1.2 activations + 2.7 CUDA graphs and "
        "libraries = 137.8 GiB, of which 1 × 8,192 tokens in the KV cache, against 92% of 22.5 = "
        "20.7 GiB"
    )
    assert names(plan(shapes["Llama-3.1-70B"], Need(context=8192), fleet={"A10": 8})) == ["8 × A10"]


def test_a_device_of_the_fleet_that_nobody_knows_is_named(shapes: dict[str, ModelShape]) -> None:
    with pytest.raises(UserError, match="device 'RTX-6000' of the fleet is not known"):
        plan(shapes["Llama-3.1-8B"], EIGHT, fleet={"RTX-6000": 1})


def test_types_take_devices_that_compute_in_them(shapes: dict[str, ModelShape]) -> None:
    shape, small = shapes["Llama-3.1-8B"], Need(context=256)
    reasons = {left.device.name: left.reason for left in plan(shape, small).left_out}
    assert reasons["T4"] == "compute capability 7.5, and bfloat16 takes 8.0"
    # In float16 a T4 could; two of them, for one is too small.
    assert names(plan(shape, replace(small, dtype="half"), fleet={"T4": 4})) == ["2 × T4"]
    eight_bits = plan(shape, replace(small, kv_dtype="fp8"))
    assert all(choice.device.capability >= (8, 9) for choice in choices(eight_bits))
    with pytest.raises(UserError, match="dtype 'int4' is none that a model computes in"):
        plan(shape, replace(small, dtype="int4"))


def test_heads_that_do_not_divide_leave_out_a_number_of_devices(
    shapes: dict[str, ModelShape],
) -> None:
    # Phi-4 has 40 heads and 10 KV heads: 2 share them, 4 and 8 cannot.
    found = plan(shapes["Phi-4"], Need(context=16384, concurrency=8))
    assert {choice.count for choice in choices(found)} <= {1, 2}


def test_a_compressed_kv_cache_lies_on_every_device(shapes: dict[str, ModelShape]) -> None:
    need = Need(context=4096)
    deepseek, llama = shapes["DeepSeek-V3"], shapes["Llama-3.1-70B"]
    assert kv_cache_bytes(deepseek, need, 8) == kv_cache_bytes(deepseek, need, 1)
    assert kv_cache_bytes(llama, need, 8) * 8 == kv_cache_bytes(llama, need, 1)
    assert kv_cache_bytes(llama, need, 16) == kv_cache_bytes(llama, need, 8), "a head each at least"


def test_layers_with_a_window_keep_no_more_than_it(shapes: dict[str, ModelShape]) -> None:
    # Of Gemma 2 every second layer, and its window is half of this context.
    short, full = (kv_cache_bytes(shapes["Gemma-2-27B"], Need(context=n)) for n in (4096, 8192))
    assert full == pytest.approx(1.5 * short, rel=0.01)


def test_a_target_leaves_out_what_is_too_slow(shapes: dict[str, ModelShape]) -> None:
    shape = shapes["Llama-3.1-8B"]
    quick = replace(EIGHT, tokens_per_second=30.0)
    found = plan(shape, quick, fleet={"L4": 1, "A10": 2, "L40S": 1})
    assert names(found) == ["one L40S", "2 × A10"], "two read twice as quickly"
    assert found.left_out[0].reason.startswith("too slow: one L4 would give 11.5 tokens/s")
    assert all(choice.speed.tokens_per_second >= 30 for choice in choices(found))
    # What was measured counts instead of what is published.
    measured = known_devices({"L4": DeviceConfig(measured_gb_s=1000)})
    assert names(plan(shape, quick, measured))[0] == "one L4"
    first = plan(shape, replace(EIGHT, ttft_ms=200.0))
    assert all(choice.speed.ttft_ms <= 200 for choice in choices(first))


def test_prices_order_and_devices_of_ones_own_take_part(shapes: dict[str, ModelShape]) -> None:
    devices = known_devices(
        {
            "A100-80": DeviceConfig(price=0.1),
            "RTX-6000": DeviceConfig(
                memory="49140Mi",
                bandwidth_gb_s=960,
                tflops=364,
                compute_capability="8.9",
                price=0.2,
            ),
        }
    )
    found = plan(shapes["Llama-3.1-8B"], EIGHT, devices)
    assert names(found)[:2] == ["one A100-80", "one RTX-6000"]
    with pytest.raises(UserError, match="device 'RTX-7' is not in the catalogue, and lacks memory"):
        known_devices({"RTX-7": DeviceConfig(price=1)})


def test_slices_are_asked_for_where_they_fit_and_share_nothing(
    shapes: dict[str, ModelShape],
) -> None:
    shape = shapes["Llama-3.1-8B"]
    sliced = [choice for choice in choices(plan(shape, EIGHT)) if choice.device.profile]
    assert "one A100-80-3g.40gb" in map(str, sliced)
    with pytest.raises(UserError, match="slices of a device do not share a model"):
        plan(shape, EIGHT, fleet={"A100-80-3g.40gb": 4}, tensor_parallel=2)


@st.composite
def decoders(draw: st.DrawFn) -> ModelShape:
    """Models of every size, from a smoke test to one that takes a machine."""
    kv_heads = draw(st.sampled_from([1, 2, 4, 8]))
    parameters = draw(st.integers(10**8, 10**12))
    experts = draw(st.sampled_from([0, 0, 8, 128]))
    return ModelShape(
        name="drawn",
        layers=draw(st.integers(1, 128)),
        window_layers=draw(st.integers(0, 64)),
        window=draw(st.sampled_from([128, 4096])),
        heads=kv_heads * draw(st.sampled_from([1, 4, 8])),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([64, 128])),
        latent=draw(st.sampled_from([0, 0, 576])),
        state_elements=0,
        hidden=draw(st.integers(512, 16384)),
        intermediate=draw(st.integers(512, 53248)),
        vocabulary=draw(st.integers(1000, 260_000)),
        context=131072,
        dtype=draw(st.sampled_from(["bfloat16", "float16", "float32"])),
        quantization=draw(st.sampled_from([None, "awq", "fp8"])),
        float_elements=parameters,
        fixed_bytes=draw(st.integers(0, 10**11)),
        parameters=parameters,
        expert_parameters=parameters // 2 if experts else 0,
        expert_share=0.5 if experts else 0.0,
        experts=experts,
        experts_per_token=2,
    )


needs = st.builds(
    Need,
    context=st.integers(256, 131072),
    concurrency=st.integers(1, 256),
    dtype=st.sampled_from(["auto", "float16"]),
    kv_dtype=st.sampled_from(["auto", "fp8"]),
    tokens_per_second=st.none() | st.floats(1, 100),
    ttft_ms=st.none() | st.floats(50, 10_000),
    utilization=st.floats(0.5, 1.0),
)


def planned(shape: ModelShape, need: Need) -> Plan | None:
    try:
        return plan(shape, need)
    except UserError:
        return None


@given(decoders(), needs)
def test_what_is_asked_for_fits_is_quick_enough_and_comes_by_price(
    shape: ModelShape, need: Need
) -> None:
    found = planned(shape, need)
    assume(found is not None)
    assert found is not None
    assert 1 <= len(found.tiers) <= MOST_TIERS
    for choice in choices(found):
        held = memory(shape, need, choice.device, choice.count)
        assert held.total <= usable(choice.device, need)
        assert speed(shape, need, choice.device, choice.count).reaches(need)
        assert choice.count == 1 or choice.device.profile is None
    prices = [tier.price for tier in found.tiers]
    assert prices == sorted(prices)
    # Each device once, or left out with a reason.
    asked = [choice.device.name for choice in choices(found)]
    left = {out.device.name: out.reason for out in found.left_out}
    assert sorted([*asked, *left]) == sorted(CATALOGUE)
    assert all(left.values())


@given(decoders(), needs, st.integers(2, 10))
def test_more_need_never_has_a_cheaper_first_choice(
    shape: ModelShape, need: Need, times: int
) -> None:
    little = planned(shape, need)
    for more in (
        replace(need, concurrency=need.concurrency * times),
        replace(need, context=(need.context or 1) * times),
        replace(need, tokens_per_second=(need.tokens_per_second or 1.0) * times),
    ):
        much = planned(shape, more)
        if little is None:
            assert much is None
        elif much is not None:
            assert cheapest(little) <= cheapest(much)


def cheapest(found: Plan) -> float:
    return min(choice.price for choice in choices(found))


@given(decoders(), needs)
def test_more_devices_hold_no_more_each(shape: ModelShape, need: Need) -> None:
    held = [memory(shape, need, CATALOGUE["H100-SXM"], count) for count in COUNTS if count >= 2]
    assert [each.total for each in held] == sorted((each.total for each in held), reverse=True)


def test_the_arithmetic_is_told(shapes: dict[str, ModelShape]) -> None:
    told = plan(shapes["Llama-3.1-8B"], replace(EIGHT, tokens_per_second=10.0)).lines()
    assert told[:4] == [
        "Llama-3.1-8B: 8.0 billion parameters, computed in bfloat16",
        "KV cache: 128 KiB per token; 4 × 4,096 tokens",
        "on one L4: 15.0 weights + 2.0 KV cache + 1.2 activations + 0.9 CUDA graphs and libraries "
        "= 19.0 GiB, of which 4 × 4,096 tokens in the KV cache, against 92% of 22.5 = 20.7 GiB",
        "wanted of each conversation: 10 tokens/s",
    ]
    assert "not T4: compute capability 7.5, and bfloat16 takes 8.0" in told
