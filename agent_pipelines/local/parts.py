"""Running parts, shared between the commands that work in one state directory.

Belongs here: attaching to a part or starting it, keeping it while in use, seeing whether it runs.
Does not belong here: what a part is (`weaviate`, `vllm`) and its life and end (`guard`).

A user of a part holds a shared lock on `<name>.users`. The kernel takes it away when the process
ends in whatever way, so that even `kill -9` of every user leaves nothing behind. Whether a part
runs is likewise asked of a lock (`<name>.guard`), not of a process id, which may be reused.
"""

import contextlib
import fcntl
import http.client
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.local import guard

_POLL_SECONDS = 0.05
_ASK_SECONDS = 2.0
_LOG_LINES = 20
_LOG_BYTES = 10_000_000
_GUARD_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Launch:
    """How to start a part. ``env`` is added to the environment of the command that starts it."""

    name: str
    argv: tuple[str, ...]
    addresses: Mapping[str, str]
    health_url: str
    env: Mapping[str, str] = field(default_factory=dict)
    start_timeout: float = 60.0
    stop_timeout: float = 10.0
    cwd: Path | None = None


@dataclass(frozen=True)
class Part:
    """A part that runs, as its guard recorded it."""

    name: str
    guard: int
    child: int
    since: float
    addresses: Mapping[str, str]
    health_url: str
    start_timeout: float
    stop_timeout: float
    argv: tuple[str, ...]
    log: str


class Closed(Exception):
    """The parts were closed while one of them was being started, as Ctrl-C does."""


def find(state_dir: Path, name: str) -> Part | None:
    """The part, where its guard is alive. Read only: it neither starts nor keeps it."""
    if not _guarded(state_dir, name):
        return None
    try:
        record = json.loads((_folder(state_dir) / f"{name}.json").read_text())
    except FileNotFoundError:
        return None  # its guard is just coming up or going down
    return Part(**{**record, "argv": tuple(record["argv"])})


def addresses(state_dir: Path, name: str) -> Mapping[str, str] | None:
    """Where a running part answers, or None: for processes whose parent keeps the part."""
    part = find(state_dir, name)
    return part.addresses if part is not None and _answers(part.health_url) else None


class Parts:
    """The parts this process uses. They stay up until the last process that uses them closes."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._users: dict[str, IO[bytes]] = {}
        self._guards: dict[str, subprocess.Popen[bytes]] = {}
        self._patience: dict[str, float] = {}
        self._one_at_a_time: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def ensure(
        self,
        name: str,
        launch: Callable[[], Launch],
        *,
        start: bool = True,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Mapping[str, str]:
        """The addresses of the part, attached to or (with ``start``) started; kept until `close`.

        Call it again when a part has died. Safe from several threads and processes at once: one
        of them starts the part, the others attach to it.
        """
        _folder(self._state_dir).mkdir(parents=True, exist_ok=True)
        with self._lock:
            turn = self._one_at_a_time.setdefault(name, threading.Lock())
        with turn:
            kept = name in self._users
            try:
                if not start:
                    self._keep(name)
                    return self._attached(name, launch=None)
                with self._starting(name, progress) as start_lock:
                    self._keep(name)
                    return self._attach_or_start(name, launch, progress, start_lock)
            except BaseException:
                # Ctrl-C included. Without its last user a part ends; `close` waits for that.
                if not kept:
                    self._let_go(name)
                raise

    def close(self) -> None:
        """Let go of every part, and wait for the end of those that nobody else uses."""
        with self._lock:
            self._closed.set()
        names = list(self._users)
        for name in names:
            self._let_go(name)
        for name in {*names, *self._patience}:
            self._wait_for_end(name)
        for process in self._guards.values():
            if process.poll() is None:
                # Another command keeps it. It is not ours to wait for: init will reap it.
                process.returncode = 0
        self._guards.clear()

    def _attach_or_start(
        self,
        name: str,
        launch: Callable[[], Launch],
        progress: Callable[[str], None],
        start_lock: IO[bytes],
    ) -> Mapping[str, str]:
        if _guarded(self._state_dir, name):
            with contextlib.suppress(_Gone):
                return self._attached(name, launch)
        order = launch()
        began = time.monotonic()
        progress(f"starting {name}")
        process = self._spawn(name, order, start_lock)
        try:
            self._wait_for_health(order, process)
        except UserError:
            process.terminate()
            try:
                process.wait(order.stop_timeout + _GUARD_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()  # its shadow does the rest
            raise
        progress(f"{name} is ready after {time.monotonic() - began:.1f} s")
        return order.addresses

    def _attached(self, name: str, launch: Callable[[], Launch] | None) -> Mapping[str, str]:
        """Wait for a part that somebody else started; `_Gone` when it ends meanwhile."""
        began = time.monotonic()
        while _guarded(self._state_dir, name):
            part = find(self._state_dir, name)
            if part is not None:
                if _answers(part.health_url):
                    self._patience[name] = part.stop_timeout
                    return part.addresses
                if launch is not None and time.monotonic() - began > part.start_timeout:
                    raise UserError(
                        f"{name} (process {part.child}) runs but does not answer at "
                        f"{part.health_url}{_last_lines(Path(part.log))}",
                        remedy=f"end it with `kill {part.guard}` and try again; log: {part.log}",
                    )
            if launch is None:
                break
            self._pause()
        if launch is None:
            raise UnavailableError(
                f"{name} is not running for {self._state_dir}",
                remedy="start it with `agent-pipelines dev`, or name an existing one "
                "(`agent-pipelines doctor` lists the settings)",
            )
        raise _Gone

    def _spawn(self, name: str, order: Launch, start_lock: IO[bytes]) -> subprocess.Popen[bytes]:
        folder = _folder(self._state_dir)
        log = _log(self._state_dir, name)
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        (folder / f"{name}.json").unlink(missing_ok=True)  # left by a guard that was killed
        message = json.dumps(
            {
                "name": name,
                "folder": str(folder),
                "argv": order.argv,
                "env": dict(order.env),
                "cwd": str(order.cwd or self._state_dir),
                "addresses": dict(order.addresses),
                "health_url": order.health_url,
                "start_timeout": order.start_timeout,
                "stop_timeout": order.stop_timeout,
                "log": str(log),
                "start_lock": start_lock.fileno(),
            }
        ).encode()
        # Under the lock that `close` takes first: after `close` nothing is started any more.
        with self._lock, open(log, "ab") as output:
            if self._closed.is_set():
                raise Closed
            self._patience[name] = order.stop_timeout
            process = subprocess.Popen(
                # By its path, isolated (-I), without site (-S): quick, and standard library only.
                [sys.executable, "-I", "-S", guard.__file__, name],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # The guard holds this lock too until its record is written: if we are killed now,
                # the next command must not take the part for absent and start a second one.
                pass_fds=[start_lock.fileno()],
            )
            self._guards[name] = process
        assert process.stdin is not None
        with process.stdin as order_pipe:
            order_pipe.write(message)
        return process

    def _wait_for_health(self, order: Launch, process: subprocess.Popen[bytes]) -> None:
        log = _log(self._state_dir, order.name)
        deadline = time.monotonic() + order.start_timeout
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise UserError(
                    f"{order.name} ended while starting{_last_lines(log)}",
                    remedy=f"put right what its log names: {log}",
                )
            # The record is written once the child exists: before that, whatever answers at this
            # address is somebody else.
            part = find(self._state_dir, order.name)
            if part is not None and part.guard == process.pid and _answers(order.health_url):
                return
            self._pause()
        raise UserError(
            f"{order.name} did not answer at {order.health_url} within "
            f"{order.start_timeout:.0f} s{_last_lines(log)}",
            remedy=f"see its log for the reason: {log}",
        )

    @contextlib.contextmanager
    def _starting(self, name: str, progress: Callable[[str], None]) -> Iterator[IO[bytes]]:
        """One starter at a time among all processes."""
        with open(_folder(self._state_dir) / f"{name}.start", "a+b") as file:
            if not _locked(file, fcntl.LOCK_EX):
                progress(f"waiting for another command that is starting {name}")
                while not _locked(file, fcntl.LOCK_EX):
                    self._pause()
            yield file

    def _keep(self, name: str) -> None:
        """Become a user of the part; waits while its guard is ending it."""
        if name in self._users:
            return
        file = open(_folder(self._state_dir) / f"{name}.users", "a+b")  # noqa: SIM115
        try:
            while not _locked(file, fcntl.LOCK_SH):
                self._pause()
            with self._lock:
                if self._closed.is_set():
                    raise Closed
                self._users[name] = file
        except BaseException:
            file.close()
            raise

    def _let_go(self, name: str) -> None:
        with self._lock:
            file = self._users.pop(name, None)
        if file is not None:
            file.close()

    def _wait_for_end(self, name: str) -> None:
        patience = self._patience.get(name, 0.0) + _GUARD_GRACE_SECONDS
        deadline = time.monotonic() + patience
        while self._ending(name) and time.monotonic() < deadline:
            if self._used_by_others(name):
                return
            time.sleep(_POLL_SECONDS)

    def _ending(self, name: str) -> bool:
        # A guard that we have only just started does not hold its lock yet.
        process = self._guards.get(name)
        started = process is not None and process.poll() is None
        return started or _guarded(self._state_dir, name)

    def _used_by_others(self, name: str) -> bool:
        with open(_folder(self._state_dir) / f"{name}.users", "a+b") as file:
            if _locked(file, fcntl.LOCK_EX):
                return False
            # Not free, but shareable: so it is a user that holds it, and not the guard at its end.
            return _locked(file, fcntl.LOCK_SH)

    def _pause(self) -> None:
        if self._closed.wait(_POLL_SECONDS):
            raise Closed


class _Gone(Exception):
    """The part that was to be attached to has ended."""


def _folder(state_dir: Path) -> Path:
    return state_dir / "parts"


def _log(state_dir: Path, name: str) -> Path:
    return state_dir / "logs" / f"{name}.log"


def _guarded(state_dir: Path, name: str) -> bool:
    try:
        with open(_folder(state_dir) / f"{name}.guard", "rb") as file:
            return not _locked(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _locked(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# Never through a proxy: HTTP_PROXY is common on office laptops and does not know our loopback.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _answers(url: str) -> bool:
    try:
        with _direct.open(url, timeout=_ASK_SECONDS) as response:
            return bool(response.status == http.HTTPStatus.OK)
    except (OSError, http.client.HTTPException):
        return False


def _last_lines(log: Path) -> str:
    """The end of the log, of the latest start only."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    starts = [number for number, line in enumerate(lines) if "[guard] === " in line]
    lines = lines[starts[-1] :] if starts else lines
    return "".join(f"\n    {line}" for line in lines[-_LOG_LINES:])
