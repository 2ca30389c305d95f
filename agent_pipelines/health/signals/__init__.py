"""The catalogue: one file per signal, found by looking. Each defines `SIGNAL`.

Adding a signal is adding a file here, and nothing anywhere else.
"""

import importlib
import pkgutil

from agent_pipelines.health.signal import Signal


def catalogue() -> tuple[Signal, ...]:
    """Every signal of an index, cheap ones first, then by name."""
    found = [
        importlib.import_module(f"{__name__}.{module.name}").SIGNAL
        for module in pkgutil.iter_modules(__path__)
    ]
    return tuple(sorted(found, key=lambda s: (s.depth != "tick", s.name)))
