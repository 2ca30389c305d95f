"""The parent of one running part: starts it, and ends it when its last user is gone.

Belongs here: the life of one child process and its record. Does not belong here: deciding what to
start, or waiting until it answers (`parts`). Standard library only, and run as a plain file with
`python -I -S`, so that a guard is up in a few hundredths of a second and nothing can shadow it.

Two processes share the work, so that neither can be killed and leave the part running:

* the guard is the parent of the child, and holds it as long as somebody holds `<name>.users`;
* its shadow only waits for the guard to die, and then kills the child's process group.

Both hold the lock `<name>.guard` (one open file, inherited over the fork): while it is held,
something of this part may still be running; once it is free, nothing is.

The child's temporary files go where whoever ends it removes them: vLLM leaves its sockets behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

POLL_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
_GROUP_KILL_SECONDS = 5.0


def main() -> int:
    """Start the part that the order on standard input names, and see it to its end."""
    # The order comes over a pipe, not in argv: an environment may hold secrets, `ps` shows argv.
    # A starter that dies half-way through writing leaves no JSON, and so starts nothing.
    try:
        order = json.loads(sys.stdin.buffer.read())
    except ValueError:
        return 1
    # Handlers that do nothing, not SIG_IGN: the child would inherit that, and then ignore SIGINT.
    for unwanted in (signal.SIGINT, signal.SIGHUP):
        signal.signal(unwanted, lambda *_: None)
    folder = Path(order["folder"])
    name = order["name"]
    # A bare descriptor, never closed: the lock goes when this process does, and not before.
    life = os.open(folder / f"{name}.guard", os.O_RDWR | os.O_CREAT, 0o644)
    # A shadow that is still killing what a former guard left holds this for a moment.
    fcntl.flock(life, fcntl.LOCK_EX)
    with (
        # A short name: what is in it may be a socket, whose path has about a hundred characters.
        tempfile.TemporaryDirectory(prefix="ap-", ignore_cleanup_errors=True) as temporary,
        _shadow(order["start_lock"], temporary) as tell_shadow,
        open(folder / f"{name}.users", "a+b") as users,
    ):
        order["env"].setdefault("TMPDIR", temporary)
        return _guard(order, folder / f"{name}.json", users, tell_shadow)


def _guard(
    order: Mapping[str, Any],
    record: Path,
    users: IO[bytes],
    tell_shadow: Callable[[str], None],
) -> int:
    with _signals() as (wake, asked_to_stop):
        child = _start(order)
        tell_shadow(f"{child.pid}\n")
        try:
            _write_record(order, record, child.pid)
            os.close(order["start_lock"])
            while child.poll() is None and not asked_to_stop():
                # Nobody can hold the shared lock while we hold this one: a command that comes now
                # waits until we are gone, finds no record and starts the part afresh.
                if _try_exclusive(users):
                    break
                select.select([wake], [], [], POLL_SECONDS)
                _drain(wake)
        finally:
            # First the record, so that nobody is sent to a part that is going down.
            record.unlink(missing_ok=True)
            status = _end(child, order["stop_timeout"])
        _say(f"{order['name']} ended ({_describe(status)})")
    return 0


def _start(order: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    _say(f"=== {order['name']}: {' '.join(order['argv'])}")
    guard = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def die_with_guard() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            # The guard may have died before the line above took effect.
            if os.getppid() != guard:
                os._exit(1)

    try:
        # Its own session: the terminal's Ctrl-C does not reach it, and the whole tree (vLLM
        # starts engine processes) can be signalled as one process group.
        return subprocess.Popen(
            order["argv"],
            env={**os.environ, **order["env"]},
            cwd=order["cwd"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_guard,
        )
    except OSError as error:
        _say(f"{order['name']} cannot be started: {error}")
        raise SystemExit(1) from None


def _end(child: subprocess.Popen[bytes], patience: float) -> int:
    """Ask the child to end, for it knows best how to end its own; then end what is left by force.

    SIGTERM to the whole group would be heard first by vLLM's engine, which its server then reports
    as a crash.
    """
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=patience)
    # Also when the child itself went quietly: its own children may have stayed.
    _signal_group(child.pid, signal.SIGKILL)
    return child.wait()


def _write_record(order: Mapping[str, Any], record: Path, child: int) -> None:
    written = record.with_suffix(".new")
    written.write_text(
        json.dumps(
            {
                "name": order["name"],
                "guard": os.getpid(),
                "child": child,
                "since": time.time(),
                "addresses": order["addresses"],
                "health_url": order["health_url"],
                "start_timeout": order["start_timeout"],
                "stop_timeout": order["stop_timeout"],
                "argv": order["argv"],
                "log": order["log"],
            },
            indent=2,
        )
    )
    os.replace(written, record)


@contextlib.contextmanager
def _shadow(start_lock: int, temporary: str) -> Iterator[Callable[[str], None]]:
    """Fork the process that outlives this one by just long enough to end what it leaves."""
    heard, told = os.pipe()
    if os.fork() == 0:
        os.close(told)
        os.close(start_lock)
        _be_shadow(heard, temporary)
        os._exit(0)
    os.close(heard)
    yield lambda line: _write(told, line)
    _write(told, "done\n")
    os.close(told)


def _be_shadow(heard: int, temporary: str) -> None:
    os.setsid()
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    said = b""
    # End of file means that the guard is gone, however it went.
    while piece := os.read(heard, 4096):
        said += piece
    lines = said.decode().split()
    if lines and lines[-1] == "done":
        return
    if lines:
        _kill_group(int(lines[0]))
    shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _signals() -> Iterator[tuple[int, Callable[[], bool]]]:
    """A file descriptor that wakes `select` on SIGCHLD and SIGTERM, and whether SIGTERM came."""
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, stop)
    yield wake, lambda: stopped


def _kill_group(group: int) -> None:
    deadline = time.monotonic() + _GROUP_KILL_SECONDS
    while _signal_group(group, signal.SIGKILL) and time.monotonic() < deadline:
        if sys.platform == "linux" and not _running_in(group):
            return
        time.sleep(0.02)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS answers so for a group of which only zombies are left.
        return False
    return True


def _running_in(group: int) -> bool:
    """Whether the group holds more than zombies, which a container's first process may not reap."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent group …", and a name may hold spaces and parentheses.
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state not in "ZX":
                return True
    return False


def _try_exclusive(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(descriptor: int, line: str) -> None:
    # A killed shadow must not keep the guard from ending the part.
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, line.encode())


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 4096)


def _describe(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def _say(line: str) -> None:
    """Into the part's log, which the starter opened as our standard error."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} [guard] {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main())
