"""GGUF → a folder for transformers and vLLM: `python -m agent_pipelines.local.convert FILE FOLDER`.

Belongs here: the conversion, run as a process of its own. Does not belong here: which file
(`models.py`), and where its result is kept (`conversion.py`).
"""

import sys
from pathlib import Path


def main(weights: Path, folder: Path) -> None:
    """Write the model in `weights` (GGUF) to `folder` as safetensors, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        weights.parent,
        gguf_file=weights.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(folder)
    # transformers makes the weights readable by their owner only; the cache may be shared.
    for file in folder.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
