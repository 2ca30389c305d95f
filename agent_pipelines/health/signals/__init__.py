"""The catalogue: one file per signal, found by looking. Each defines `SIGNAL`.

Adding a signal is adding a file here, and nothing anywhere else.
"""

from agent_pipelines.health.signal import Signal, found_in


def catalogue() -> tuple[Signal, ...]:
    """Every signal of an index, cheap ones first, then by name."""
    return tuple(sorted(found_in(__name__, __path__), key=lambda s: (s.depth != "tick", s.name)))


def warnings() -> tuple[str, ...]:
    """The names of those that warn: they label what rests on an index, and never block it."""
    return tuple(signal.name for signal in catalogue() if signal.severity == "warn")
