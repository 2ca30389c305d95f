"""What a model needs of a device, and the claim that asks a cluster for it.

Belongs here: arithmetic from a model's own files, devices as they are published, and what follows.
Does not belong here: starting a model (`local/vllm.py`) or talking to a cluster.
"""
