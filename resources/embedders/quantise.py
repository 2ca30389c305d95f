"""Weights in 8 bits, as far as the vectors stay the model's own.

Belongs here: which matrices of a converted model bear it, found by trying. Does not belong here:
the conversion (`convert.py`), or where 8 bits are worth it (`cpu.py`).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent_pipelines.indexing.golden import GOLDEN_TEXT, cosine
from resources.embedders import openvino

#: The least cosine, over `_SHORT` and `_longer()`, between vectors in float32 and with 8-bit
#: weights. MiniLM's other texts came out at 0.9996 then, well clear of golden.MIN_COSINE.
_MIN_COSINE = 0.9993

#: Where the harm is greatest: in a long text the errors of its tokens even out.
_SHORT = ("", "a", "the", "one", "error", "hello world", "the cat", "What is it?")

#: Not worth it where more of the weights than this would have to stay as they are.
_MOST_KEPT = 0.4


def quantise(converted: Path) -> None:
    """Rewrite `model.xml` with 8-bit weights wherever that leaves its vectors alone.

    A row of weights is cut into groups of `WEIGHTS_PER_SCALE`, each rounded to -127…127 times a
    scale of its own (symmetric, to the nearest); OpenVINO rounds activations likewise as they
    come, with `DYNAMIC_QUANTIZATION_GROUP_SIZE`. Matrices are not equally patient: in MiniLM five
    of those that make attention's values do as much harm as the thirty others together. So each is
    tried alone, and those that do most harm for their size stay in float32, as few as will do.
    Where that would be most of them, the model stays as it is.
    """
    runtime = openvino.runtime()
    read = runtime.Core().read_model
    path = converted / "model.xml"
    sizes = {name: weights.size for name, weights in _matrices(read(path))}
    exact = openvino.Network(converted)

    def least_cosine(names: set[str], texts: Sequence[str]) -> float:
        model = read(path)
        _round(model, names)
        rounded = openvino.Network(converted, model)
        # One at a time: what fills a pack costs time, and the longest would pad the others.
        return min(cosine(exact.vectors([text])[0], rounded.vectors([text])[0]) for text in texts)

    harm = {name: (1 - least_cosine({name}, _SHORT)) / size for name, size in sizes.items()}
    patient = sorted(sizes, key=lambda name: harm[name])
    texts = [*_SHORT, *_longer()]
    while sum(sizes[name] for name in patient) > (1 - _MOST_KEPT) * sum(sizes.values()):
        if least_cosine(set(patient), texts) >= _MIN_COSINE:
            break
        patient.pop()
    else:
        return
    model = read(path)
    _round(model, set(patient))
    runtime.save_model(model, converted / "rounded.xml", compress_to_fp16=False)
    del model  # it reads from the file that is about to be replaced
    for suffix in (".bin", ".xml"):
        (converted / "rounded").with_suffix(suffix).replace(path.with_suffix(suffix))


def _longer() -> list[str]:
    """Prose and program text of every length from a sentence on: Python's own reference."""
    from pydoc_data.topics import topics

    rows = [text for _, text in sorted(topics.items())][::5]
    return [GOLDEN_TEXT, *(text[: 100 + 100 * number] for number, text in enumerate(rows))]


def _matrices(model: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Weights that something is multiplied by: shape (outputs, inputs)."""
    for operation in model.get_ordered_ops():
        if operation.get_type_name() != "MatMul" or not operation.get_attributes()["transpose_b"]:
            continue
        weights = operation.input_value(1).get_node()
        if weights.get_type_name() != "Constant":
            continue
        values = weights.data
        if (
            values.ndim == 2
            and values.dtype == np.float32
            and values.shape[1] % openvino.WEIGHTS_PER_SCALE == 0
        ):
            yield operation.get_friendly_name(), values


def _round(model: Any, names: set[str]) -> None:
    """Put 8-bit weights, and what makes them float32 again, in place of these matrices."""
    operators = openvino.runtime().opset13
    matrices = {name: values for name, values in _matrices(model) if name in names}
    for operation in model.get_ordered_ops():
        values = matrices.get(operation.get_friendly_name())
        if values is None:
            continue
        groups = values.reshape(len(values), -1, openvino.WEIGHTS_PER_SCALE)
        scales = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
        scales[scales == 0] = 1
        rounded = np.round(groups / scales).astype(np.int8)
        restored = operators.reshape(
            operators.multiply(
                operators.convert(operators.constant(rounded), "f32"), operators.constant(scales)
            ),
            operators.constant(np.array(values.shape, np.int64)),
            special_zero=False,
        )
        operation.input(1).replace_source_output(restored.output(0))
