"""The command line as processes: started for real, awaited with a deadline, ended by their pids.

Belongs here: running `agent-pipelines` in a state directory of its own, and seeing what is left of
it. Does not belong here: what a command should print.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]

_T = TypeVar("_T")

_POLL_SECONDS = 0.1

#: A deadline grows by no more than this, however busy the machine is.
_CROWD = 5.0

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1

#: What every process of a state directory has in its environment, however it was started.
_STATE_DIR = "AGENT_PIPELINES_STATE_DIR"


def until(condition: Callable[[], _T], seconds: float, what: str) -> _T:
    """The first true value of `condition`; fails when the deadline passes without one.

    A second counts as much less as this machine has more to do than it has processors.
    """
    left = seconds
    before = time.monotonic()
    while not (found := condition()):
        if left < 0:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(_POLL_SECONDS)
        before, since = time.monotonic(), before
        left -= (before - since) / crowd()
    return found


def crowd() -> float:
    """How many want each processor, of the last minute; 1 at least."""
    return min(max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), _CROWD)


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        try:
            return json.loads(self.out)
        except ValueError as error:
            raise AssertionError(
                f"{error}; exit code {self.code}\n{self.out}\n{self.err}"
            ) from None


@dataclass
class Command:
    """A command that runs."""

    process: subprocess.Popen[bytes]
    state: Path
    folder: Path
    family: set[psutil.Process] = field(default_factory=set)
    """Every descendant that was ever seen: a server may hide its environment."""

    _kept: dict[str, str] = field(default_factory=dict)
    """What it said, once its files are gone."""

    @property
    def out(self) -> str:
        return self._said("out")

    @property
    def err(self) -> str:
        return self._said("err")

    def _said(self, stream: str) -> str:
        if stream in self._kept:
            return self._kept[stream]
        return (self.folder / stream).read_text(errors="replace")

    def keep(self) -> None:
        """Remember what it said: its files go."""
        self._kept.update(out=self.out, err=self.err)

    def running(self) -> bool:
        """Whether it runs; remembers its descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family.update(psutil.Process(self.process.pid).children(recursive=True))
        return self.process.poll() is None

    def says(self, text: str, seconds: float) -> None:
        """Wait until it has printed this."""

        def said() -> bool:
            running = self.running()
            if text in self.err:
                return True
            assert running, f"ended with {self.process.returncode}:\n{self.out}\n{self.err}"
            return False

        until(said, seconds, f"{text!r} in:\n{self.err}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def finish(self, seconds: float) -> Finished:
        """Wait for its end."""
        until(lambda: not self.running(), seconds, f"the end of {self.process.args!r}")
        return Finished(self.process.returncode, self.out, self.err)

    def left(self) -> list[psutil.Process]:
        """What still runs of everything it started."""
        return [process for process in self.family if _alive(process)] + of(self.state)


@contextlib.contextmanager
def started(
    *arguments: str, state: Path, cwd: Path | None = None, **environment: str
) -> Iterator[Command]:
    """`agent-pipelines …` in this state directory. At the end nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="command-"))
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent_pipelines.cli", *arguments],
            env={**os.environ, "COLUMNS": "200", **environment, _STATE_DIR: str(state)},
            cwd=cwd or Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=dies_with_us,
        )
    command = Command(process, state, folder)
    try:
        yield command
    finally:
        command.running()
        if process.poll() is None:
            process.kill()
        process.wait()
        # Its parts end by themselves once their user is gone. Only where that fails: by force.
        with contextlib.suppress(AssertionError):
            until(lambda: not [p for p in command.family if _alive(p)], 40, "the end of its parts")
        for process_left in filter(_alive, command.family):
            with contextlib.suppress(psutil.NoSuchProcess):
                process_left.kill()
        command.keep()
        shutil.rmtree(folder)


def cli(
    *arguments: str,
    state: Path,
    cwd: Path | None = None,
    seconds: float = 120,
    **environment: str,
) -> Finished:
    """`agent-pipelines …` to its end."""
    with started(*arguments, state=state, cwd=cwd, **environment) as command:
        return command.finish(seconds)


def of(state: Path) -> list[psutil.Process]:
    """Every process that works in this state directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(_STATE_DIR) == str(state) and _alive(process):
                found.append(process)
    return found


def listening(port: int) -> bool:
    """Whether anything accepts connections on this port of this machine."""
    with socket.socket() as asking:
        asking.settimeout(2)
        return asking.connect_ex(("127.0.0.1", port)) == 0


def dies_with_us() -> None:
    # A shell that runs the tests in the background lets them ignore Ctrl-C, and that is inherited.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Also when the tests are killed, nothing stays behind. (Where this does not exist, it may.)
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
