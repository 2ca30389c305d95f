"""Makes a sentence-transformers model so small that it costs next to nothing: `FOLDER TOKENIZER`.

A real model and not a stand-in, for the one measurement that goes through the command line, which
opens its embedder by name. Random weights: its vectors mean nothing.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")


def make(folder: Path, tokenizer: Path) -> None:
    """Write the model, with the tokenizer of the model in the folder `tokenizer`."""
    torch.manual_seed(0)
    shape = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    with tempfile.TemporaryDirectory() as weights:
        BertModel(shape).save_pretrained(weights)
        for name in _TOKENIZER:
            shutil.copy(tokenizer / name, weights)
        transformer = Transformer(weights, max_seq_length=256)
        SentenceTransformer(modules=[transformer, Pooling(32)]).save(str(folder))


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
