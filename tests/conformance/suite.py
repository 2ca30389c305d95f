"""The official conformance suite of the protocol, and what it found.

Belongs here: running it and reading its results. Does not belong here: what is tested by it.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import packages

_PACKAGE = "@modelcontextprotocol/conformance"
_VERSION = "0.2.0-alpha.11"

#: The suite gives up on a single client by itself; this is for a suite that hangs.
_SECONDS = 400


@dataclass(frozen=True)
class Check:
    """One statement that the suite checked."""

    scenario: str
    check: str
    status: str
    said: str

    def __str__(self) -> str:
        return f"{self.scenario}:{self.check}: {self.status}: {self.said}"


@dataclass(frozen=True)
class Verdict:
    """How a run ended. Code 0: exactly those scenarios failed that the baseline names."""

    code: int
    checks: list[Check]
    out: str

    @property
    def passed(self) -> int:
        """How many checks."""
        return sum(check.status == "SUCCESS" for check in self.checks)

    @property
    def flawless(self) -> set[str]:
        """Scenarios in which checks were passed, and none was not."""
        passed = {check.scenario for check in self.checks if check.status == "SUCCESS"}
        return passed - {check.scenario for check in self.failures}

    @property
    def failures(self) -> list[Check]:
        """The suite takes a warning for a failure too."""
        return [check for check in self.checks if check.status in ("FAILURE", "WARNING")]

    def __str__(self) -> str:
        """Which scenario, which check, and why; then the suite's own last words."""
        failed = "\n".join(map(str, self.failures))
        return f"{self.passed} checks passed; not passed:\n{failed}\n…{self.out[-1500:]}"


def run(kind: str, *arguments: str, spec_version: str, baseline: Path, results: Path) -> Verdict:
    """All scenarios that a protocol version has for a ``kind``: `server` or `client`."""
    suite = packages.from_npm(_PACKAGE, _VERSION) / "dist" / "index.js"
    done = subprocess.run(
        [
            *(packages.node(), suite, kind, *arguments, "--suite", "all"),
            *("--spec-version", spec_version),
            *("--expected-failures", baseline, "--output-dir", results),
        ],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    plain = re.sub(r"\x1b\[\d+m", "", done.stderr + done.stdout)
    return Verdict(done.returncode, list(_checks(results)), plain)


def _checks(results: Path) -> Iterator[Check]:
    for file in sorted(results.rglob("checks.json")):
        # Its folder is `server-<scenario>-<time>` or `<scenario>-<time>`, with slashes of its own.
        folder = str(file.parent.relative_to(results))
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT.*$", "", folder)
        for check in json.loads(file.read_text()):
            said = check.get("errorMessage") or check.get("description", "")
            yield Check(scenario, check["id"], check["status"], said)
