"""The estimate against what is published of well-known models: weights, KV cache, what is left.

The models' shapes and the figures, each with its source, are in `tests/recorded/models.json`.
"""

from pathlib import Path

import pytest

from agent_pipelines.gpu.devices import CATALOGUE, GIB
from agent_pipelines.gpu.memory import Need, kv_bytes_per_token, memory
from agent_pipelines.gpu.model import ModelShape, read_shape, resolved_dtype
from tests.models import RECORDED, write_model

#: Norms, biases and what a kernel adds are not in the tensors that tests write.
_NEAR = 0.01


def of(figure: str) -> list[tuple[str, float]]:
    """The models of which this is published, and what is."""
    return [
        (name, model["published"][figure])
        for name, model in RECORDED.items()
        if figure in model["published"]
    ]


@pytest.fixture
def shape(tmp_path: Path, name: str) -> ModelShape:
    return read_shape(write_model(tmp_path, name), name)


@pytest.mark.parametrize(("name", "published"), of("parameters"))
def test_parameters(shape: ModelShape, published: float) -> None:
    assert shape.parameters == pytest.approx(published, rel=_NEAR)


@pytest.mark.parametrize(("name", "published"), of("active_parameters"))
def test_parameters_that_a_token_uses(shape: ModelShape, published: float) -> None:
    # Some do not count the embedding, of which a token uses a row.
    embedding = shape.vocabulary * shape.hidden
    assert 0.97 * published < shape.active_parameters < 1.03 * published + embedding


@pytest.mark.parametrize(("name", "published"), of("weights_gib"))
def test_weights_on_one_device(shape: ModelShape, published: float) -> None:
    weights = shape.weight_bytes(resolved_dtype("auto", shape))
    assert weights / GIB == pytest.approx(published, rel=_NEAR)


@pytest.mark.parametrize(("name", "published"), of("weights_gib_each_of_2"))
def test_weights_on_each_of_two_devices(shape: ModelShape, published: float) -> None:
    held = memory(shape, Need(context=16000), CATALOGUE["H100-SXM"], 2)
    assert held.weights / GIB == pytest.approx(published, rel=_NEAR)


@pytest.mark.parametrize(("name", "published"), of("kv_bytes_per_token"))
def test_kv_cache_of_a_token(shape: ModelShape, published: float) -> None:
    assert kv_bytes_per_token(shape, Need()) == published


@pytest.mark.parametrize(("name", "published"), of("kv_bytes_per_token_each_of_4"))
def test_kv_cache_of_a_token_on_each_of_four_devices(shape: ModelShape, published: float) -> None:
    # The log rounds the memory, and a block that is not full counts.
    assert kv_bytes_per_token(shape, Need(), 4) == pytest.approx(published, rel=0.012)


@pytest.mark.parametrize(
    ("name", "published", "devices"),
    [(*found, 1) for found in of("kv_cache_gib_on_h100")]
    + [(*found, 2) for found in of("kv_cache_gib_on_2_h100")],
)
def test_what_vllm_leaves_to_the_kv_cache(
    shape: ModelShape, published: float, devices: int
) -> None:
    # CUDA graphs were not counted by that vLLM, and are by ours.
    held = memory(shape, Need(context=16000), CATALOGUE["H100-SXM"], devices)
    graphs_too = 0.9 * 79.18 - (held.total - held.kv_cache) / GIB
    assert graphs_too <= published
    assert graphs_too == pytest.approx(published, abs=2.0)


def test_as_many_tokens_fit_as_vllm_said(tmp_path: Path) -> None:
    # Qwen3-8B on an RTX 5090 of 32,607 MiB: "GPU KV cache size: 89,040 tokens", at 0.92.
    shape = read_shape(write_model(tmp_path, "Qwen3-8B"))
    held = memory(shape, Need(), CATALOGUE["L4"])
    left = 0.92 * 32607 * (1 << 20) - (held.total - held.kv_cache)
    assert left / kv_bytes_per_token(shape, Need()) == pytest.approx(89_040, rel=0.06)
