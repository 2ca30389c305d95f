"""What a model needs, against a model written here and the published figures of a known one."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from agent_pipelines.errors import UserError
from agent_pipelines.gpu.memory import Need, kv_bytes_per_token
from agent_pipelines.gpu.model import read_shape
from agent_pipelines.local.models import check_llm


def write_model(folder: Path, **config: object) -> Path:
    folder.mkdir()
    shape = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 64,
        "vocab_size": 100,
    }
    (folder / "config.json").write_text(json.dumps({**shape, "dtype": "bfloat16", **config}))
    save_file({"a": np.zeros((10, 10), np.float16)}, folder / "model-1.safetensors")
    save_file({"b": np.zeros(50, np.float32)}, folder / "model-2.safetensors")
    return folder


def test_a_folder_is_read_from_its_headers(tmp_path: Path) -> None:
    shape = read_shape(write_model(tmp_path / "m", num_key_value_heads=2))
    assert (shape.layers, shape.kv_heads, shape.head_dim) == (2, 2, 16)
    assert shape.parameters == 150
    # Loaded in 16 bits, whatever they lie in the file as.
    assert shape.weight_bytes("bfloat16") == 300
    assert kv_bytes_per_token(shape, Need()) == 2 * 2 * 2 * 16 * 2


def test_a_model_path_that_is_not_there_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        check_llm(str(tmp_path / "nowhere"))


def test_a_config_that_is_no_decoders_says_what_it_lacks(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "config.json").write_text('{"num_hidden_layers": 2}')
    with pytest.raises(UserError, match=r"no 'num_attention_heads' in its config\.json"):
        read_shape(folder)


def test_a_model_that_cannot_fit_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "huge", hidden_size=1 << 24, num_hidden_layers=4096)
    with pytest.raises(UserError, match=r"0.0 GB of weights and \d+"):
        check_llm(str(folder))


def test_a_name_of_the_hub_is_left_to_vllm() -> None:
    check_llm("Qwen/Qwen3-8B")
