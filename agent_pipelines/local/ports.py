"""Free loopback ports for the parts.

Belongs here: choosing port numbers. Does not belong here: who listens on them.
"""

import contextlib
import json
import socket
from collections.abc import Sequence
from pathlib import Path

HOST = "127.0.0.1"
_ATTEMPTS = 50


def free(*runs: int) -> list[int]:
    """Ports that were free at one moment, all different: bound together, then let go.

    Each argument asks for a run of that many neighbouring ports: ``free(1, 2)`` gives three.
    """
    with contextlib.ExitStack() as held:
        return [port for length in runs for port in _neighbours(length, held)]


def stable(state_dir: Path, name: str, *runs: int) -> list[int]:
    """The ports this part had last time, where all of them are still free; otherwise new ones.

    So a part that died comes back where its clients look for it.
    """
    remembered = state_dir / "parts" / f"{name}.ports.json"
    with contextlib.suppress(OSError, ValueError, TypeError, OverflowError):
        asked, ports = json.loads(remembered.read_text())
        if asked == list(runs):
            with contextlib.ExitStack() as held:
                return _bind(ports, held)
    ports = free(*runs)
    remembered.parent.mkdir(parents=True, exist_ok=True)
    remembered.write_text(json.dumps([runs, ports]))
    return ports


def _neighbours(length: int, held: contextlib.ExitStack) -> list[int]:
    for _ in range(_ATTEMPTS):
        with contextlib.ExitStack() as attempt:
            (first,) = _bind([0], attempt)
            # Past 65535, or next to a port that is in use: try elsewhere.
            with contextlib.suppress(OSError, OverflowError):
                rest = _bind(range(first + 1, first + length), attempt)
                held.push(attempt.pop_all())
                return [first, *rest]
    raise OSError(f"no {length} neighbouring free ports on {HOST}")


def _bind(wanted: Sequence[int], held: contextlib.ExitStack) -> list[int]:
    sockets = [held.enter_context(socket.socket()) for _ in wanted]
    for listener, port in zip(sockets, wanted, strict=True):
        # As servers do: a port whose last connections still linger counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
    return [int(listener.getsockname()[1]) for listener in sockets]
