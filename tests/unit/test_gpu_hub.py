"""A model of the hub: only config.json and headers are fetched, and what the hub refuses is said.

The hub is a server of the test's own, which the hub's client is pointed at in a process of its own:
it reads its settings once, when it is imported.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.loopback import LoopbackServer
from tests.models import write_model


class Hub(LoopbackServer):
    """One model, and for others what the hub answers of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.sent: Counter[str] = Counter()

    def routes(self) -> list[Route]:
        return [Route("/{owner}/{name}/resolve/main/{file}", self._file, methods=["GET", "HEAD"])]

    async def _file(self, request: Request) -> Response:
        about = {"x-repo-commit": "0" * 40, "etag": '"1"', "accept-ranges": "bytes"}
        match request.path_params["name"]:
            case "gated":
                return Response(status_code=403, headers={"x-error-code": "GatedRepo"})
            case "nothing":
                return Response(status_code=401, headers={"x-error-code": "RepoNotFound"})
            case "broken":
                return Response(status_code=500)
        path = self._folder / request.path_params["file"]
        if not path.exists():
            return Response(status_code=404, headers={"x-error-code": "EntryNotFound"})
        data = path.read_bytes()
        if wanted := request.headers.get("range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1]
            about["content-range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            self.sent[path.name] += len(part)
            return Response(part, 206, headers=about)
        if request.method == "GET":
            self.sent[path.name] += len(data)
        return Response(data, headers=about)


def claim(hub: Hub | None, folder: Path, model: str) -> subprocess.CompletedProcess[str]:
    """`claim MODEL` with this hub, or with one that nobody can reach."""
    port = hub.port if hub else 9  # discard: nobody listens there
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "agent_pipelines.cli",
            "claim",
            model,
            "--context",
            "4096",
            "--json",
        ],
        env={
            "HF_HUB_OFFLINE": "0",
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(folder / "hub-cache"),
            "NO_PROXY": "127.0.0.1",
        },
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_headers_are_all_that_is_fetched(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "Llama-3.1-8B")
    weights = folder / "model.safetensors"
    header = weights.stat().st_size
    with weights.open("ab") as file:
        file.truncate(50_000_000)  # as if there were weights
    with Hub(folder) as hub:
        done = claim(hub, tmp_path, "meta/Llama-3.1-8B")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["template"]["metadata"]["name"] == "llm-llama-3-1-8b"
    assert told["tiers"][0][0]["device"] == "L4"
    # The hub's client reads the first 100,000 bytes, in which most headers lie.
    assert header < hub.sent["model.safetensors"] <= 100_001


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("meta/gated", "is shown by the hub only to who has accepted its terms"),
        ("meta/nothing", "the hub has no model 'meta/nothing', or does not show it to us"),
        ("not a name", "the hub has no model 'not a name'"),
    ],
)
def test_what_the_hub_refuses_is_said(tmp_path: Path, model: str, said: str) -> None:
    with Hub(tmp_path) as hub:
        done = claim(hub, tmp_path, model)
    assert done.returncode == 2, done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_hub_that_cannot_be_reached_says_what_to_do(
    tmp_path: Path, offline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    done = claim(None, tmp_path, "meta/Llama-3.1-8B")
    assert done.returncode == 2, done.stderr
    said = " ".join(done.stderr.split())
    assert "the hub does not say what model meta/Llama-3.1-8B is like" in said
    assert "→ download the model where the hub can be reached, and name its folder" in said
