"""What a model needs, against a model written here and the published figures of a known one."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from agent_pipelines.errors import UserError
from agent_pipelines.gpu.memory import ModelShape, read_shape
from agent_pipelines.local.models import check_llm


def write_model(folder: Path, **config: object) -> Path:
    folder.mkdir()
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}
    (folder / "config.json").write_text(json.dumps({**shape, "dtype": "bfloat16", **config}))
    save_file({"a": np.zeros((10, 10), np.float16)}, folder / "model-1.safetensors")
    save_file({"b": np.zeros(50, np.float32)}, folder / "model-2.safetensors")
    return folder


def test_a_folder_is_read_from_its_headers(tmp_path: Path) -> None:
    shape = read_shape(write_model(tmp_path / "m", num_key_value_heads=2))
    assert shape == ModelShape(layers=2, kv_heads=2, head_dim=16, kv_bytes=2, weight_bytes=400)


def test_llama_3_8b_takes_128_kib_of_kv_cache_per_token() -> None:
    # 32 layers, 8 KV heads of 128 in 16 bits: the published 16 GB of weights leave an 80 GB card
    # room for more than 400,000 tokens.
    shape = ModelShape(32, 8, 128, 2, weight_bytes=16_060_522_496)
    assert shape.kv_bytes_per_token == 128 * 1024
    assert (
        shape.memory(context=8192, concurrency=50)
        < 80e9
        < shape.memory(context=8192, concurrency=60)
    )


def test_a_model_path_that_is_not_there_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        check_llm(str(tmp_path / "nowhere"))


def test_a_model_that_cannot_fit_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "huge", hidden_size=1 << 24, num_hidden_layers=4096)
    with pytest.raises(UserError, match=r"0.0 GB of weights and \d+"):
        check_llm(str(folder))


def test_a_name_of_the_hub_is_left_to_vllm() -> None:
    check_llm("Qwen/Qwen3-8B")
