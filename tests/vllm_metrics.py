"""What a real vLLM 0.32 told at /metrics, on two CPU cores: recorded, with nothing left out.

Belongs here: reading the recordings. Does not belong here: what they amount to.
"""

from pathlib import Path

#: Before its first request; after 24 of them, eight at a time; and while some of them waited.
RECORDED = ("idle", "after", "busy")


def told(name: str) -> str:
    """One of the recordings."""
    return (Path(__file__).parent / "recorded" / f"vllm-{name}.prom").read_text()
