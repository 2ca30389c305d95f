"""What a model needs of a device.

Belongs here: arithmetic from a model's own files. Does not belong here: starting a model
(`local/vllm.py`) or asking a cluster for a device.
"""
