"""A day of agent batches: which models, how much work, and when. The same for the same seed.

Belongs here: the batches, and how long one takes on some devices. Does not belong here: what they
are given (`policies`), or the clock (`simulation`).
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from agent_pipelines.gpu.devices import Device
from agent_pipelines.gpu.memory import Need
from agent_pipelines.gpu.model import ModelShape
from agent_pipelines.gpu.speed import speed
from tests.cluster import models

HOUR = 3600.0

#: How many of a hundred batches are a model's. Small ones are asked most: they classify and
#: extract, where the largest reason over the rest.
_SHARES: Mapping[str, int] = {
    "Qwen2.5-0.5B": 15,
    "Qwen2.5-1.5B": 15,
    "Llama-3.2-3B": 15,
    "Llama-3.1-8B": 30,
    "Qwen2.5-14B": 12,
    "Qwen2.5-32B": 8,
    "Llama-3.3-70B": 5,
}

#: Of a batch: what is drawn from for each.
_CONTEXTS = (4096, 8192, 16384)
_CONCURRENCIES = (2, 4, 8)
_TASKS = (40, 400)
_TURNS = (3, 8)

#: Tokens that a turn adds before the model answers: a tool's result, the prefix cache has the rest;
#: and tokens of its answer.
_PROMPT, ANSWER = 500, 150

#: Slower than this nobody wants to wait for a conversation.
_TOKENS_PER_SECOND = 10.0

#: Before the first token: a container, a Python, CUDA graphs; and bytes per second at which weights
#: come from a volume of the cluster.
_START_SECONDS, _LOAD_BYTES = 60.0, 1e9

#: The share of a day's batches that begin in office hours.
_BUSY_SHARE, _BUSY_HOURS, _DAY_HOURS = 0.7, (8, 18), 24


@dataclass(frozen=True)
class Batch:
    """Tasks for one agent, with a model of its own for as long as they take."""

    name: str
    arrives: float
    """Seconds after midnight."""
    model: ModelShape
    need: Need
    tasks: int
    turns: int
    """Of each conversation."""
    tool_seconds: float
    """That each turn waits for tools, while the device has nothing to do for it."""

    @property
    def tokens(self) -> int:
        """That it generates."""
        return self.tasks * self.turns * ANSWER

    def turn_seconds(self, device: Device, count: int) -> float:
        """Of all conversations at once, with that many of a device.

        The prompts come one after the other, as prefill fills a device; the answers side by side,
        as decoding waits for memory; then the tools.
        """
        found = speed(self.model, self.need, device, count)
        prompts = self.need.concurrency * found.ttft_ms / 1000
        return prompts + ANSWER / found.tokens_per_second + self.tool_seconds

    def seconds(self, device: Device, count: int) -> float:
        """From the pod's start to its end."""
        rounds = math.ceil(self.tasks / self.need.concurrency) * self.turns
        loading = self.model.weight_bytes(self.need.dtype) / _LOAD_BYTES
        return _START_SECONDS + loading + rounds * self.turn_seconds(device, count)


def day(batches: int, *, seed: int, tool_seconds: float) -> list[Batch]:
    """That many batches, by their arrival."""
    draw = random.Random(seed)
    shapes = [models.shape(name) for name in _SHARES]
    arrivals = sorted(_arrival(draw) for _ in range(batches))
    return [
        Batch(
            name=f"batch-{number:03}",
            arrives=arrives,
            model=draw.choices(shapes, list(_SHARES.values()))[0],
            need=Need(
                context=draw.choice(_CONTEXTS),
                concurrency=draw.choice(_CONCURRENCIES),
                dtype="float16",  # which every device computes in
                tokens_per_second=_TOKENS_PER_SECOND,
                prompt=_PROMPT,
            ),
            tasks=draw.randint(*_TASKS),
            turns=draw.randint(*_TURNS),
            tool_seconds=tool_seconds,
        )
        for number, arrives in enumerate(arrivals)
    ]


def _arrival(draw: random.Random) -> float:
    first, last = _BUSY_HOURS if draw.random() < _BUSY_SHARE else (0, _DAY_HOURS)
    return round(draw.uniform(first * HOUR, last * HOUR))
