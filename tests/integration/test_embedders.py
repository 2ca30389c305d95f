"""Every way of computing vectors here, with the real packaged model: one meaning, one identity.

The HTTP endpoint has a file of its own; CUDA and MPS have no machine to run on here.
"""

import json
import logging
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from agent_pipelines.errors import UserError
from agent_pipelines.indexing.embedding import embed_checked
from agent_pipelines.indexing.golden import GOLDEN_TEXT, MIN_COSINE, cosine, golden_vector
from agent_pipelines.settings import Settings
from resources.embedder import EmbedderResource, best_backend
from resources.embedders import cpu, openvino
from resources.embedders.model import Model, find
from resources.embedders.openvino import OpenVinoEmbedder
from resources.embedders.pytorch import PytorchEmbedder

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def model() -> Model:
    return find(None, weights=True)


@pytest.fixture(scope="module")
def reference(model: Model) -> PytorchEmbedder:
    return PytorchEmbedder(model, Settings().cache_dir)


@pytest.fixture(scope="module")
def quick(model: Model) -> OpenVinoEmbedder:
    """Converted once per cache directory."""
    cache_dir = Settings().cache_dir
    return OpenVinoEmbedder(model, openvino.obtain(model, cache_dir), cache_dir)


@pytest.fixture(scope="module")
def coarse(model: Model) -> OpenVinoEmbedder:
    """As on a processor with matrix units: in bfloat16, where this one has instructions for it."""
    cache_dir = Settings().cache_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "arithmetic", lambda: "bf16")
        embedder = OpenVinoEmbedder(model, openvino.obtain(model, cache_dir), cache_dir)
        embedder.embed(["loaded now"])
    return embedder


def texts_of_every_length(model: Model) -> list[str]:
    """Of 1 to 254 words that are one token each, and some that no model reads to its end."""
    words = ["the", "cat", "sat", "on", "a", "red", "mat", "and", "ran", "to", "some", "old", "sea"]
    lengths = [1, 2, 5, 13, 34, 89, 200, 254, 255, 400]
    return [
        *(" ".join(words[(n + i) % len(words)] for i in range(n)) for n in lengths),
        GOLDEN_TEXT,
        "naïve Ünïcödé 東京 🙂\u0000\ufffd",
        "  \n\t  ",
    ]


def test_vectors_are_the_same_by_every_backend_at_every_length_and_in_any_company(
    model: Model,
    reference: PytorchEmbedder,
    quick: OpenVinoEmbedder,
    coarse: OpenVinoEmbedder,
) -> None:
    texts = texts_of_every_length(model)
    alone = [reference.embed([text])[0] for text in texts]
    for backend in (reference, quick, coarse):
        together, packed = backend.embed(texts), embed_checked(backend, texts)
        for text, wanted, padded, unpadded in zip(texts, alone, together, packed, strict=True):
            for got in (padded, unpadded):
                assert cosine(wanted, got) >= MIN_COSINE, (backend, text[:60])
    assert cosine(golden_vector(reference), golden_vector(quick)) >= MIN_COSINE


def test_the_golden_vector_tells_weights_that_are_a_few_percent_off(
    model: Model, reference: PytorchEmbedder, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    for path in model.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    weights = load_file(model.folder / "model.safetensors")
    noise = np.random.default_rng(0)
    for name, values in weights.items():
        if values.dtype == np.float32:
            factors = 1 + 0.03 * noise.standard_normal(values.shape)
            weights[name] = (values * factors).astype(np.float32)
    (tmp_path / "model.safetensors").unlink()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    other = PytorchEmbedder(find(str(tmp_path), weights=True), tmp_path / "cache")
    assert cosine(golden_vector(reference), golden_vector(other)) < MIN_COSINE
    assert other.identity.digest != reference.identity.digest


def test_the_identity_does_not_tell_the_backend(
    model: Model, quick: OpenVinoEmbedder, tmp_path: Path
) -> None:
    converted = openvino.obtain(model, Settings().cache_dir)
    told = [
        PytorchEmbedder(model, tmp_path / "torch").identity,
        OpenVinoEmbedder(model, converted, tmp_path / "openvino").identity,
        # Remembered by the other, and by itself.
        PytorchEmbedder(model, tmp_path / "openvino").identity,
        OpenVinoEmbedder(model, converted, tmp_path / "torch").identity,
    ]
    assert told == [told[0]] * 4
    assert (told[0].name, told[0].dimension, told[0].max_tokens, told[0].normalized) == (
        "all-MiniLM-L6-v2",
        384,
        256,
        True,
    )


START = """
import json, sys
from resources.embedder import EmbedderResource
embedder = EmbedderResource().open()
vector = embedder.embed([sys.argv[1]])[0]
embedder.identity
loaded = [name for name in sys.argv[2:] if sys.modules.get(name) is not None]
print(json.dumps({"type": type(embedder).__name__, "loaded": loaded, "vector": vector.tolist()}))
"""


def test_a_converted_model_starts_without_pytorch_and_reports_to_nobody(
    quick: OpenVinoEmbedder,
) -> None:
    """As `auto` decides on a machine without a GPU: deciding must not load it either."""
    golden_vector(quick)
    heavy = ["torch", "transformers", "sentence_transformers", "openvino_telemetry"]
    environment = {**os.environ, "EMBEDDER_BACKEND": "openvino"}
    for backend in ("openvino", "auto") if best_backend() == "openvino" else ("openvino",):
        started = subprocess.run(
            [sys.executable, "-c", START, GOLDEN_TEXT, "openvino", *heavy],
            env={**environment, "EMBEDDER_BACKEND": backend},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            check=True,
        )
        told = json.loads(started.stdout)
        assert (told["type"], told["loaded"]) == ("OpenVinoEmbedder", ["openvino"])
        assert cosine(np.array(told["vector"], np.float32), golden_vector(quick)) > 0.99999


def test_two_that_convert_at_once_convert_once_and_leave_one_whole_model(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "arithmetic", lambda: "f32")
    kept = openvino.obtain(model, Settings().cache_dir).relative_to(Settings().cache_dir)
    (tmp_path / kept).with_name(f".new-{kept.name}-killed").mkdir(parents=True)
    with ThreadPoolExecutor(2) as both:
        one, other = both.map(lambda _: openvino.obtain(model, tmp_path), range(2))
    assert one == other == tmp_path / kept
    assert {p.name for p in one.iterdir()} == {"model.xml", "model.bin", "tokenizer.json"}
    assert [p.name for p in one.parent.iterdir() if p.is_dir()] == [one.name]
    assert OpenVinoEmbedder(model, one, tmp_path).embed(["one"]).shape == (1, 384)


def test_a_model_whose_vectors_would_not_be_its_own_stays_with_pytorch(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A prompt put before each text is not in the weights, so it would be lost in silence."""
    folder = tmp_path / "prompted"
    folder.mkdir()
    for path in model.folder.iterdir():
        (folder / path.name).symlink_to(path)
    configuration = folder / "config_sentence_transformers.json"
    configuration.unlink()
    configuration.write_text(
        json.dumps({"prompts": {"all": "passage about: "}, "default_prompt_name": "all"})
    )
    monkeypatch.setenv("AGENT_PIPELINES_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("resources.embedder.accelerators.has_gpu", lambda: False)
    with caplog.at_level(logging.WARNING):
        chosen = EmbedderResource(model=str(folder)).open()
    assert isinstance(chosen, PytorchEmbedder)
    assert "its vectors are not PyTorch's: cosine 0." in caplog.text
    assert "EMBEDDER_BACKEND=torch" in caplog.text


def test_without_openvino_pytorch_is_used_and_asking_for_it_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGENT_PIPELINES_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "openvino", None)  # what an absent package looks like
    assert isinstance(EmbedderResource().open(), PytorchEmbedder)
    monkeypatch.setenv("EMBEDDER_BACKEND", "openvino")
    with pytest.raises(UserError, match="EMBEDDER_BACKEND is openvino, and that is not installed"):
        EmbedderResource().open()


def test_a_machine_with_a_gpu_uses_pytorch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert best_backend() == "torch"
    assert PytorchEmbedder(find(None, weights=True), tmp_path).pack_tokens > 16_384


def test_a_backend_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDER_BACKEND", "cuda")
    with pytest.raises(UserError, match=r"'cuda' does not exist\n.*auto, torch, openvino"):
        Settings()
