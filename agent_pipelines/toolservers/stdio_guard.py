"""The parent of one stdio server: ends it, and whatever it started, once its user is gone.

Belongs here: the end of one tree of processes. Does not belong here: what is said to it (standard
input and output are the server's own) and when to start another one (`stdio_child`). Standard
library only and run as a plain file with `python -I -S`, so that nothing can shadow it.

On Linux nothing escapes: the kernel tells this process when its user dies, and whatever the server
starts becomes a child of this process when its own parent ends, even as a daemon in a session of
its own. Elsewhere what stays in the process group is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

#: Between asking the server to end and ending it. Less than the SDK waits before it kills us.
_GRACE_SECONDS = 1.0
_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.5


class _Asked(BaseException):
    """SIGTERM: somebody asked, or our user died."""


def main(user: int, argv: list[str]) -> int:
    """Run ``argv`` until it ends or process ``user``, our parent, does; its exit status."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    guard = os.getpid()
    if libc is not None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != user:
        return 1  # it died before the kernel knew whom to tell

    def die_with_guard() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:
                os._exit(1)

    try:
        server = subprocess.Popen(argv, preexec_fn=die_with_guard)
    except OSError as error:
        sys.stderr.write(f"cannot be started: {error}\n")
        return 127
    try:
        signal.signal(signal.SIGTERM, _ask)
        _let_go_of_the_pipes()
        status = _wait(server, user)
    except _Asked:
        status = 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end(server)
    return status if status >= 0 else 128 - status


def _ask(*_: object) -> None:
    raise _Asked


def _let_go_of_the_pipes() -> None:
    """Theirs to close: held here, a server that closes its output would look as if it had not."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)


def _wait(server: subprocess.Popen[bytes], user: int) -> int:
    if sys.platform == "linux":
        return server.wait()
    while os.getppid() == user:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return server.wait(timeout=_POLL_SECONDS)
    return 0


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ask the server, which knows best how to end its own; then end what is left by force."""
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(timeout=_GRACE_SECONDS)
    if sys.platform != "linux":
        os.killpg(0, signal.SIGKILL)  # us included
    deadline = time.monotonic() + _KILL_SECONDS
    while (children := _children()) and time.monotonic() < deadline:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        # Those whose parent has just died are ours now, and found at the next look.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)


def _children() -> list[int]:
    me = os.getpid()
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent …", and a name may hold spaces and parentheses.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == me:
                found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), sys.argv[2:]))
