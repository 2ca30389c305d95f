"""MiniLM as OpenVINO computes it, from the very files that our own backend made.

Belongs here: text to vectors, for the peers. Does not belong here: how each peer wants its embedder
to look.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

#: Texts of one pass, as sentence-transformers has it by default, which the peers' own classes use.
_BATCH = 32

_INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class Network:
    """The converted model, loaded: pooling and normalisation are in it."""

    def __init__(self, folder: str, settings: dict[str, str]) -> None:
        self._tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        # It would report its import to its makers.
        sys.modules.setdefault("openvino_telemetry", None)
        import openvino

        compiled = openvino.Core().compile_model(f"{folder}/model.xml", "CPU", settings)
        self._inputs = [port.get_any_name() for port in compiled.inputs]
        self._request = compiled.create_infer_request()

    def vectors(self, texts: Sequence[str]) -> Any:
        """One vector per text, float32; texts of like length share a pass, so less is padding."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]), reverse=True)
        parts = [
            self._pass([texts[number] for number in order[start : start + _BATCH]])
            for start in range(0, len(order), _BATCH)
        ]
        made = np.concatenate(parts)
        return made[np.argsort(order)]

    def _pass(self, texts: list[str]) -> Any:
        encodings = self._tokenizer.encode_batch_fast(texts)
        inputs = {
            name: np.array([getattr(e, _INPUTS[name]) for e in encodings], np.int64)
            for name in self._inputs
        }
        return self._request.infer(inputs)[0].copy()  # the request's own memory is used again
