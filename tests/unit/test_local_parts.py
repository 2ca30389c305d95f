"""Real processes on loopback: what a part's users can do to it, and what is left afterwards."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.local import guard, ports
from agent_pipelines.local.parts import Closed, Launch, Part, Parts, addresses, find

# A server with a child of its own, as vLLM has engine processes; it names both under /.
SERVER = """
import http.server, os, subprocess, sys
grandchild = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.getpid()} {grandchild.pid}".encode())
    def log_message(self, *args):
        pass
print("listening", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

# A command of its own: uses the part until its standard input is closed.
USER = """
import sys
from pathlib import Path
from tests.unit.test_local_parts import server
from agent_pipelines.local.parts import Parts
state = Path(sys.argv[1])
with Parts(state) as parts:
    parts.ensure("echo", lambda: server(state), progress=lambda line: print(line, flush=True))
    print("using", flush=True)
    sys.stdin.read()
"""


def temporary(state: Path) -> Path:
    """The folder of the part's temporary files, with one in it."""
    folder = Path(psutil.Process(running(state).child).environ()["TMPDIR"])
    (folder / "socket").touch()
    return folder


def server(state: Path, program: str = SERVER, start_timeout: float = 20) -> Launch:
    (port,) = ports.stable(state, "echo", 1)
    return Launch(
        name="echo",
        argv=(sys.executable, "-S", "-c", program, str(port)),
        addresses={"url": f"http://127.0.0.1:{port}"},
        health_url=f"http://127.0.0.1:{port}/",
        start_timeout=start_timeout,
        stop_timeout=3,
    )


class User:
    def __init__(self, state: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def wait_until(self, word: str) -> list[str]:
        assert self.process.stdout is not None
        seen = []
        for line in self.process.stdout:
            seen.append(line.strip())
            if word in line:
                return seen
        raise AssertionError(f"ended without {word!r}: {seen}")

    def leave(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(20)


@pytest.fixture
def start_user(tmp_path: Path) -> Iterator[Callable[[], User]]:
    started: list[User] = []

    def start() -> User:
        started.append(User(tmp_path))
        return started[-1]

    yield start
    for user in started:
        if user.process.poll() is None:
            user.process.kill()
        user.process.wait()
        assert user.process.stdin
        assert user.process.stdout
        user.process.stdin.close()
        user.process.stdout.close()
    eventually(lambda: find(tmp_path, "echo") is None)


def runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def eventually(true: Callable[[], bool], within: float = 6) -> float:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within, "did not become true"
        time.sleep(0.02)
    return time.monotonic() - began


def gone(pids: list[int]) -> None:
    """Now. (The kernel frees the locks of a process an instant before it counts as ended.)"""
    eventually(lambda: not any(runs(pid) for pid in pids), within=0.2)


def running(state: Path) -> Part:
    part = find(state, "echo")
    assert part is not None
    return part


def tree(state: Path) -> list[int]:
    part = running(state)
    family = psutil.Process(part.guard).children(recursive=True)
    pids = [part.guard, *(process.pid for process in family)]
    assert part.child in pids
    assert len(pids) == 4, "guard, shadow, child, grandchild"
    return pids


def test_a_second_user_attaches_and_the_last_one_out_stops_it(tmp_path: Path) -> None:
    with Parts(tmp_path) as first:
        found = first.ensure("echo", lambda: server(tmp_path))
        pids = tree(tmp_path)
        with Parts(tmp_path) as second:
            assert second.ensure("echo", lambda: pytest.fail("started twice")) == found
        assert all(runs(pid) for pid in pids)
        assert addresses(tmp_path, "echo") == found
        began = time.monotonic()
    assert time.monotonic() - began < 3
    gone(pids)
    assert addresses(tmp_path, "echo") is None
    assert not (tmp_path / "parts" / "echo.json").exists()


def test_two_commands_at_once_start_one(tmp_path: Path, start_user: Callable[[], User]) -> None:
    users = [start_user() for _ in range(4)]
    said = [line for user in users for line in user.wait_until("using")]
    assert said.count("starting echo") == 1
    pids = tree(tmp_path)
    assert [user.leave() for user in users] == [0, 0, 0, 0]
    gone(pids)


def test_many_threads_at_once_start_one(tmp_path: Path) -> None:
    said: list[str] = []
    with Parts(tmp_path) as parts:
        threads = [
            threading.Thread(
                target=parts.ensure,
                args=("echo", lambda: server(tmp_path)),
                kwargs={"progress": said.append},
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert said.count("starting echo") == 1
        tree(tmp_path)


def test_kill_9_of_every_user_leaves_nothing(
    tmp_path: Path, start_user: Callable[[], User]
) -> None:
    users = [start_user(), start_user()]
    for user in users:
        user.wait_until("using")
    pids = tree(tmp_path)
    users[0].process.kill()
    time.sleep(2 * guard.POLL_SECONDS)
    assert all(runs(pid) for pid in pids), "the other still uses it"
    users[1].process.kill()
    assert eventually(lambda: not any(runs(pid) for pid in pids)) < 2


def test_kill_9_of_a_user_in_the_middle_of_starting_leaves_nothing(
    tmp_path: Path, start_user: Callable[[], User]
) -> None:
    user = start_user()
    user.wait_until("starting")
    user.process.kill()
    time.sleep(0.3)
    eventually(lambda: find(tmp_path, "echo") is None)
    # And the next one is not confused by it.
    with Parts(tmp_path) as parts:
        parts.ensure("echo", lambda: server(tmp_path))
        tree(tmp_path)


def test_kill_9_of_the_guard_leaves_nothing_and_the_user_gets_a_new_one(
    tmp_path: Path,
) -> None:
    with Parts(tmp_path) as parts:
        before = parts.ensure("echo", lambda: server(tmp_path))
        pids, left = tree(tmp_path), temporary(tmp_path)
        os.kill(pids[0], signal.SIGKILL)
        assert eventually(lambda: not any(runs(pid) for pid in pids)) < 1
        eventually(lambda: not left.exists())
        assert addresses(tmp_path, "echo") is None
        assert parts.ensure("echo", lambda: server(tmp_path)) == before, "on the same ports"
        assert not set(tree(tmp_path)) & set(pids)


def test_kill_9_of_the_shadow_changes_nothing(tmp_path: Path) -> None:
    with Parts(tmp_path) as parts:
        parts.ensure("echo", lambda: server(tmp_path))
        pids = tree(tmp_path)
        part = running(tmp_path)
        (shadow,) = [
            process.pid
            for process in psutil.Process(part.guard).children()
            if process.pid != part.child
        ]
        os.kill(shadow, signal.SIGKILL)
        time.sleep(2 * guard.POLL_SECONDS)
        assert runs(part.child)
    gone(pids)


def test_a_part_that_dies_takes_its_children_along_and_can_be_started_again(
    tmp_path: Path,
) -> None:
    with Parts(tmp_path) as parts:
        before = parts.ensure("echo", lambda: server(tmp_path))
        pids = tree(tmp_path)
        os.kill(running(tmp_path).child, signal.SIGKILL)
        eventually(lambda: not any(runs(pid) for pid in pids))
        assert parts.ensure("echo", lambda: server(tmp_path)) == before


def test_sigterm_to_the_guard_ends_the_part(tmp_path: Path) -> None:
    with Parts(tmp_path) as parts:
        parts.ensure("echo", lambda: server(tmp_path))
        pids, left = tree(tmp_path), temporary(tmp_path)
        os.kill(pids[0], signal.SIGTERM)
        eventually(lambda: not any(runs(pid) for pid in pids))
        eventually(lambda: not left.exists())
        assert find(tmp_path, "echo") is None


def test_a_part_that_ignores_sigterm_is_killed_after_its_stop_timeout(
    tmp_path: Path,
) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
    with Parts(tmp_path) as parts:
        parts.ensure("echo", lambda: server(tmp_path, stubborn))
        pids = tree(tmp_path)
        began = time.monotonic()
    assert 2.5 < time.monotonic() - began < 6
    gone(pids)


def test_the_child_does_not_inherit_a_deaf_ear_for_ctrl_c(tmp_path: Path) -> None:
    with Parts(tmp_path) as parts:
        parts.ensure("echo", lambda: server(tmp_path))
        ignored = next(
            int(line.split()[1], 16)
            for line in Path(f"/proc/{running(tmp_path).child}/status").read_text().splitlines()
            if line.startswith("SigIgn")
        )
        assert not ignored >> (signal.SIGINT - 1) & 1
        assert not ignored >> (signal.SIGHUP - 1) & 1


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("print('no such model'); raise SystemExit(3)", "ended while starting"),
        ("import time; print('loading', flush=True); time.sleep(60)", "did not answer"),
    ],
)
def test_a_start_that_fails_shows_its_log_and_leaves_nothing(
    tmp_path: Path, program: str, complaint: str
) -> None:
    before = set(psutil.Process().children(recursive=True))
    with Parts(tmp_path) as parts:
        with pytest.raises(UserError) as raised:
            parts.ensure("echo", lambda: server(tmp_path, program, start_timeout=1.5))
        assert find(tmp_path, "echo") is None
        assert complaint in raised.value.message
        assert ("no such model" in str(raised.value)) == ("no such" in program)
        assert ("loading" in str(raised.value)) == ("loading" in program)
        assert str(tmp_path / "logs" / "echo.log") in raised.value.remedy
        # The failed attempt's lines are not shown for the next one.
        with pytest.raises(UserError) as again:
            parts.ensure("echo", lambda: server(tmp_path, "raise SystemExit('other')"))
        assert "other" in again.value.message
        assert "no such model" not in again.value.message
        assert set(psutil.Process().children(recursive=True)) <= before


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    launch = Launch("echo", ("/no/such/program",), {}, "http://127.0.0.1:9/")
    with Parts(tmp_path) as parts, pytest.raises(UserError, match="/no/such/program"):
        parts.ensure("echo", lambda: launch)


def test_without_start_a_part_is_attached_to_or_reported_unavailable(
    tmp_path: Path,
) -> None:
    with Parts(tmp_path) as parts:
        with pytest.raises(UnavailableError):
            parts.ensure("echo", lambda: pytest.fail("started"), start=False)
        with Parts(tmp_path) as starter:
            found = starter.ensure("echo", lambda: server(tmp_path))
            assert parts.ensure("echo", lambda: pytest.fail("started"), start=False) == found
        assert addresses(tmp_path, "echo") == found, "kept by the one that attached"


@pytest.mark.parametrize("moment", ["starting", "using"])
def test_ctrl_c_leaves_nothing(tmp_path: Path, start_user: Callable[[], User], moment: str) -> None:
    user = start_user()
    user.wait_until(moment)
    if moment == "starting":
        time.sleep(0.1)
    part = find(tmp_path, "echo")
    user.process.send_signal(signal.SIGINT)
    assert user.process.wait(10) == -signal.SIGINT
    assert find(tmp_path, "echo") is None
    assert part is None or not runs(part.child)


def test_closing_ends_a_start_in_another_thread(tmp_path: Path) -> None:
    slow = "import time; print('loading', flush=True); time.sleep(60)"
    parts = Parts(tmp_path)

    def start() -> None:
        with pytest.raises(Closed):
            parts.ensure("echo", lambda: server(tmp_path, slow))

    thread = threading.Thread(target=start)
    thread.start()
    eventually(lambda: find(tmp_path, "echo") is not None)
    pids = [running(tmp_path).guard, running(tmp_path).child]
    parts.close()
    gone(pids)
    thread.join(1)
    assert not thread.is_alive()


def test_attaching_survives_the_guard_that_is_just_ending(tmp_path: Path) -> None:
    for _ in range(5):
        with Parts(tmp_path) as first:
            first.ensure("echo", lambda: server(tmp_path))
            second = Parts(tmp_path)
            thread = threading.Thread(target=first.close)
            thread.start()
            assert second.ensure("echo", lambda: server(tmp_path))
            thread.join()
            assert addresses(tmp_path, "echo") is not None
            second.close()
            assert find(tmp_path, "echo") is None


def test_a_proxy_in_the_environment_does_not_hide_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Parts(tmp_path) as parts:
        assert parts.ensure("echo", lambda: server(tmp_path))


def test_an_overgrown_log_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "logs" / "echo.log"
    log.parent.mkdir()
    log.write_bytes(b"x" * 10_000_001)
    with Parts(tmp_path) as parts:
        parts.ensure("echo", lambda: server(tmp_path))
    assert log.stat().st_size < 10_000
    assert log.with_suffix(".log.1").stat().st_size == 10_000_001


def test_the_guard_reads_as_a_plain_file(tmp_path: Path) -> None:
    # Started by path with `-I -S`: an import from this project or site-packages would end it.
    program = textwrap.dedent(f"""
        import runpy, sys
        runpy.run_path({guard.__file__!r}, run_name="guard")
        print([name for name in sys.modules if name.startswith("agent_pipelines")])
    """)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
