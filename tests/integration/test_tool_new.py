"""`agent-pipelines tools new`: what it writes works as written, for whoever has the package."""

import os
import subprocess
import sys
from pathlib import Path

from tests.processes import cli

_ROOT = Path(__file__).parents[2]

_FUNCTIONS = '''\
def plural(word: str, count: int = 2) -> str:
    """Say how many there are.

    >>> plural("dog", count=3)
    '3 dogs'
    """
    return f"{count} {word}s"


async def wipe(path: str) -> dict[str, int]:
    """Delete everything below a path, which no test may do."""
    raise AssertionError(path)
'''


def test_what_it_writes_passes_its_own_test_and_every_check(tmp_path: Path) -> None:
    (tmp_path / "functions.py").write_text(_FUNCTIONS)
    for arguments in (
        ["weather"],
        ["plurals", "--from", "functions:plural"],
        ["wiping", "--from", "functions:wipe"],
    ):
        wrote = cli("tools", "new", *arguments, state=tmp_path / "state", cwd=tmp_path, **_PATHS)
        assert wrote.code == 0, wrote.err
        assert f"python -m pytest test_{arguments[0]}.py" in wrote.err
    ran = _run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider")
    # Answered as the example and as the docstring say; what may do anything was not called.
    assert "8 passed, 1 skipped" in ran, ran
    assert "Success" in _run(tmp_path, "mypy", "--strict", ".")
    assert "All checks passed" in _run(tmp_path, "ruff", "check", "--isolated", ".")
    assert "7 files already formatted" in _run(
        tmp_path, "ruff", "format", "--isolated", "--check", "."
    )


# The package as a user has it installed.
_PATHS = {"PYTHONPATH": str(_ROOT), "MYPYPATH": str(_ROOT)}


def _run(folder: Path, module: str, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, **_PATHS},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return ran.stdout + ran.stderr
