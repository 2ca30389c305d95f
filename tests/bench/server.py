"""A Weaviate of its own for every run: empty, on loopback, gone afterwards.

Belongs here: starting it. Does not belong here: what is stored in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agent_pipelines.local import weaviate
from agent_pipelines.local.parts import Launch, Parts, find


@dataclass(frozen=True)
class Server:
    """A running Weaviate."""

    address: dict[str, str]
    """`url`, `grpc` and `api_key`."""
    pid: int


@contextmanager
def fresh_server(state_dir: Path, cache_dir: Path, say: Callable[[str], None]) -> Iterator[Server]:
    """Start the server that our own commands start, with its data in `state_dir`."""
    binary = weaviate.obtain(cache_dir, say)
    key = weaviate.api_key(state_dir)

    def launch() -> Launch:
        made = weaviate.launch(binary, state_dir, key)
        # Weaviate's own default, which ours turns off: the peers let it add their properties.
        return replace(made, env={**made.env, "AUTOSCHEMA_ENABLED": "true"})

    with Parts(state_dir) as parts:
        addresses = parts.ensure("weaviate", launch, progress=say)
        part = find(state_dir, "weaviate")
        assert part is not None
        yield Server({**addresses, "api_key": key}, part.child)
