"""Long-running programs of a cluster: started with a log each, stopped and killed by their pid.

Belongs here: the life of one process. Does not belong here: which programs a cluster has.
"""

import contextlib
import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.processes import until

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1

_LOG_BYTES = 3_000


class Program:
    """A process of ours. It ends with the tests even when they are killed (on Linux)."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        log: Path,
        *,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._arguments = [str(argument) for argument in arguments]
        self._environment = environment
        self._cwd = cwd
        self.log = log
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                self._arguments,
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_the_tests,
            )

    def await_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until it answers; its log says why it does not."""

        def answered() -> bool:
            assert self._child.poll() is None, f"{self.log.stem} has ended"
            return ready()

        try:
            until(answered, seconds, f"{self.log.stem} is ready")
        except AssertionError as error:
            tail = self.log.read_text(errors="replace")[-_LOG_BYTES:]
            raise AssertionError(f"{error}\n{tail}") from None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self._child.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._child.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start it again after `end`."""
        self._start()

    def end(self) -> None:
        """Kill it: nothing that it holds outlives the tests."""
        # As it is our own child, the pid is nobody else's until it is waited for; and after that
        # `kill` does nothing.
        self._child.kill()
        self._child.wait()


def _die_with_the_tests() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
