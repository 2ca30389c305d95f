"""The ways to compute vectors, one file each, behind the engine's `Embedder` protocol.

Belongs here: PyTorch, OpenVINO, an HTTP endpoint, and the model on disk that they share. Does not
belong here: choosing one (`resources/embedder.py`) or judging vectors (`indexing/embedding.py`).
"""
