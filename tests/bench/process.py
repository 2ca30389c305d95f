"""A driver as a process, measured from outside.

Belongs here: starting it, asking it, what it cost. Does not belong here: what is asked when.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

from tests.bench.contenders import HERE, Contender

_ROOT = HERE.parents[1]
_LOG_LINES = 15
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1

#: Variables that would point a contender at somebody's own services, or at other hardware.
_UNWANTED = (
    *("WEAVIATE_", "STATE_DATABASE_URL", "EMBEDDER_", "AGENT_PIPELINES_", "LANGSMITH_"),
    "PYTHONDONTWRITEBYTECODE",  # without bytecode each start takes many times as long
)


class DriverError(Exception):
    """The contender ended instead of answering; the message has the end of its log."""


@dataclass(frozen=True)
class Cost:
    """What one request cost."""

    wall_seconds: float
    cpu_seconds: float
    """User and system time of the process, its threads and ended children."""
    store_cpu_seconds: float
    """The same of Weaviate's process."""
    rss_before_mb: float
    rss_peak_mb: float
    """The most the process ever held, loading of the model included."""


class Driver:
    """A running driver."""

    def __init__(self, contender: Contender, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._title = contender.title
        self.pid = process.pid
        self._process = process
        self._log = log

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            DriverError: the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = b""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()  # before the log is read: it may still be writing why
            last = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            raise DriverError(
                f"{self._title} ended with {status} instead of answering {do!r}:\n"
                + "\n".join(last)
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def measure(self, do: str, store_pid: int, **arguments: Any) -> tuple[dict[str, Any], Cost]:
        """Send a request, and see what it cost this process and the store's."""
        process, store = psutil.Process(self._process.pid), psutil.Process(store_pid)
        rss = process.memory_info().rss
        before, store_before = _cpu(process), _cpu(store)
        started = perf_counter()
        answer = self.ask(do, **arguments)
        wall = perf_counter() - started
        return answer, Cost(
            wall_seconds=wall,
            cpu_seconds=_cpu(process) - before,
            store_cpu_seconds=_cpu(store) - store_before,
            rss_before_mb=rss / 1e6,
            rss_peak_mb=_peak_rss(self._process.pid) / 1e6,
        )


@contextmanager
def running(
    contender: Contender, python: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Driver]:
    """A driver, ended when the block is left in whatever way."""
    # A peer must find nothing of ours; our driver stands outside the package it drives.
    path = str(_ROOT) if contender.pins is None else ""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [str(python), str(HERE / "drivers" / contender.driver)],
            env=environment_of({"PYTHONPATH": path, **(environment or {})}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is the harness's to handle
            preexec_fn=_die_with_the_harness,
        )
    try:
        yield Driver(contender, process, log)
    finally:
        process.kill()
        process.communicate()


def environment_of(additions: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, without what would make a measurement somebody else's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_UNWANTED)}
    return {**kept, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", **additions}


def _die_with_the_harness() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _peak_rss(pid: int) -> int:
    """Bytes; the kernel's own high-water mark, which no sampling can miss."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/PID/status")
