"""A tool server of a test's own as a process: started, awaited, ended.

Belongs here: the process. Does not belong here: what it serves (the module that it runs).
"""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2

from tests.processes import until

_ROOT = Path(__file__).parents[1]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(module: str, *arguments: str) -> Iterator[int]:
    """`python -m MODULE PORT ARGUMENTS…` for as long as the block lasts; its port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(port), *arguments],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )

    def answers() -> bool:
        assert process.poll() is None, f"{module} ended with {process.returncode}"
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"http://127.0.0.1:{port}/health").is_success
        return False

    try:
        until(answers, 30, f"{module} answers")
        yield port
    finally:
        process.kill()
        process.wait()
