"""The official conformance suite against our shell, and against our client, in both eras.

100 % of what applies. What a client of ours does not have is in the baseline, with its reason.
"""

import sys
from pathlib import Path

import pytest

from tests.conformance import suite
from tests.tool_processes import serving

BASELINE = Path(suite.__file__).with_name("baseline.yaml")

#: Scenarios for clients, less those of the baseline and one that whoever has no OAuth passes.
APPLICABLE = {
    "2026-07-28": {
        "tools_call",
        "request-metadata",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
        "json-schema-2020-12-preservation",
    },
    "2025-11-25": {"initialize", "tools_call", "sse-retry", "json-schema-2020-12-preservation"},
}


@pytest.mark.parametrize(("spec_version", "checks"), [("2026-07-28", 151), ("2025-11-25", 84)])
def test_the_shell_conforms(tmp_path: Path, spec_version: str, checks: int) -> None:
    with serving("tests.conformance.server", "streams") as port:
        verdict = suite.run(
            *("server", "--url", f"http://127.0.0.1:{port}/mcp"),
            spec_version=spec_version,
            baseline=BASELINE,
            results=tmp_path,
        )
    assert verdict.code == 0, str(verdict)
    assert verdict.passed == checks


@pytest.mark.parametrize(("spec_version", "scenarios"), APPLICABLE.items())
def test_our_client_conforms(tmp_path: Path, spec_version: str, scenarios: set[str]) -> None:
    verdict = suite.run(
        *("client", "--command", f"{sys.executable} -m tests.conformance.client"),
        *("--timeout", "120000"),
        spec_version=spec_version,
        baseline=BASELINE,
        results=tmp_path,
    )
    assert verdict.code == 0, str(verdict)
    assert verdict.flawless - {"auth/resource-mismatch"} == scenarios, str(verdict)
