"""A tool server of a test's own as a process: started, awaited, ended.

Belongs here: the process. Does not belong here: what it serves (the module that it runs).
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2

from tests.loopback import free_port
from tests.processes import until

_ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def serving(module: str, *arguments: str, **settings: object) -> Iterator[int]:
    """`python -m MODULE PORT PROBES_PORT ARGUMENTS…` for as long as the block lasts; its port.

    ``settings`` are the shell's, such as ``tls_cert``.
    """
    port, probes_port = free_port(), free_port()
    shell = {f"TOOLS_{name.upper()}": str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(port), str(probes_port), *arguments],
        cwd=_ROOT,
        env={**os.environ, **shell, "PYTHONPATH": str(_ROOT)},
    )

    def answers() -> bool:
        assert process.poll() is None, f"{module} ended with {process.returncode}"
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"http://127.0.0.1:{probes_port}/health").is_success
        return False

    try:
        until(answers, 60, f"{module} answers")
        yield port
    finally:
        process.kill()
        process.wait()
