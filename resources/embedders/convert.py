"""A sentence-transformers folder → OpenVINO: `-m resources.embedders.convert FOLDER f32|int8 OUT`.

Belongs here: the conversion and the proof of it, run as a process of its own. Does not belong here:
where its result is kept (`openvino.py`).
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent_pipelines.indexing.golden import GOLDEN_TEXT, MIN_COSINE, cosine
from resources.embedders import openvino, pytorch
from resources.embedders.quantise import quantise

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor


def main(folder: Path, weights: str, out: Path) -> None:
    """Write `model.xml`, `model.bin` and the `tokenizer.json` that belongs to them.

    In float32, or as far as possible with 8-bit weights.
    Pooling and normalisation are in the model. The tokenizer is what the reference really uses,
    with its limit and padding, whatever the files of the folder say.
    """
    reference = pytorch.load(folder, device="cpu")
    _write_model(reference, out)
    _write_tokenizer(reference, out)
    _prove(reference, out)
    if weights == "int8":
        quantise(out)


def _write_model(reference: "SentenceTransformer", out: Path) -> None:
    import torch

    class Pipeline(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reference = reference

        def forward(
            self,
            input_ids: "Tensor",
            attention_mask: "Tensor",
            token_type_ids: "Tensor | None" = None,
        ) -> "Tensor":
            features = {"input_ids": input_ids, "attention_mask": attention_mask}
            if token_type_ids is not None:
                features["token_type_ids"] = token_type_ids
            vectors: Tensor = self.reference(features)["sentence_embedding"]
            return vectors

    # Texts of unlike length: without padding the mask would be traced away.
    features = reference.preprocess(["one", "another that is longer than the first"])
    example = {name: features[name] for name in openvino.INPUTS if name in features}
    runtime = openvino.runtime()
    with torch.no_grad():
        model = runtime.convert_model(Pipeline().eval(), example_input=example)
    model.reshape({name: runtime.PartialShape([-1, -1]) for name in example})
    runtime.save_model(model, out / "model.xml", compress_to_fp16=False)


def _write_tokenizer(reference: "SentenceTransformer", out: Path) -> None:
    tokenizer = reference.tokenizer
    fast = tokenizer.backend_tokenizer
    fast.enable_truncation(pytorch.longest(reference), direction=tokenizer.truncation_side)
    fast.enable_padding(
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token,
    )
    fast.save(str(out / "tokenizer.json"))


def _prove(reference: "SentenceTransformer", out: Path) -> None:
    """Whatever was not carried over, such as a prompt put before each text, shows here."""
    texts = ["one", GOLDEN_TEXT[:100], GOLDEN_TEXT, GOLDEN_TEXT * 100]
    wanted = reference.encode(texts, batch_size=1, show_progress_bar=False, convert_to_numpy=True)
    got = openvino.Network(out).vectors(texts)
    least = min(map(cosine, wanted, got))
    longer = np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)
    # Written so that NaN does not pass.
    if not (least >= MIN_COSINE and np.allclose(longer, 1, atol=1e-2)):
        raise SystemExit(
            f"its vectors are not PyTorch's: cosine {least:.5f} (at least {MIN_COSINE} is wanted), "
            f"{longer.min():.3f} to {longer.max():.3f} times as long"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
