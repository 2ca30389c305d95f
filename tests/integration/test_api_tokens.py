"""The API for who has a token: what its OpenAPI says is so, and none sees another's tasks."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from agent_pipelines.state.engine import open_engine
from tests import shell_server
from tests.api_server import Api, commit, serving, signal_readings, write_assets
from tests.scripted_model import ScriptedModel, says

#: Requests to each operation beside those for each constraint of its schema.
_EXAMPLES = 25

CLERK = "/agents/clerk/tasks"


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel(lambda _: says({"answer": "x"})) as server:
        yield server


@pytest.fixture(scope="module")
def api(model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """For two tenants, over an index that is true."""
    folder = tmp_path_factory.mktemp("api")
    tokens = folder / "tokens"
    tokens.write_text("north first-secret\nsouth second-secret\n")
    with shell_server.running(folder / "tools") as tools:
        assets = write_assets(folder, tools.url)
        with serving(folder, assets, model.base_url, token_file=tokens) as server:
            engine = open_engine(server.database)
            commit(engine, "docs", 1)
            signal_readings(engine, "docs")
            yield server


def test_it_answers_as_its_openapi_says(api: Api, model: ScriptedModel, tmp_path: Path) -> None:
    """schemathesis, as anybody would run it."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/openapi.json"),
            *("--max-examples", str(_EXAMPLES), "--seed", "1", "--no-color"),
            *("--phases", "examples,coverage,fuzzing"),
            # Which fields a task needs depends on the agent, which no schema of a path says.
            *("--exclude-checks", "positive_data_acceptance"),
            *("--header", "Authorization:Bearer first-secret"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert model.requests, "some of it was a task"
    assert api.process.poll() is None
    assert "Traceback" not in api.stderr


def test_a_token_names_the_tenant_and_who_has_none_is_told(api: Api) -> None:
    with api.client() as http:
        for header, said in (
            ({}, "a bearer token is missing"),
            ({"authorization": "Bearer third-secret"}, "not known here"),
        ):
            refused = http.get("/agents", headers=header)
            assert (refused.status_code, refused.json()["code"]) == (401, "token")
            assert said in refused.text
            assert refused.headers["www-authenticate"].startswith("Bearer")
        north, south = ({"authorization": f"Bearer {n}-secret"} for n in ("first", "second"))
        page = http.get("/agents", headers={**north, "origin": "https://evil.example"})
        assert (page.status_code, page.json()["code"]) == (403, "origin")

        ask(http, north, "mine")
        assert http.get(f"{CLERK}/same", headers=south).status_code == 404
        ask(http, south, "theirs")
        assert http.get(f"{CLERK}/same", headers=north).json()["inputs"] == {"question": "mine"}
    assert '"caller": "north"' in api.stderr
    assert "secret" not in api.stderr


def ask(http: httpx2.Client, tenant: dict[str, str], question: str) -> None:
    body = {"question": question, "task_id": "same"}
    answer = http.post(CLERK, json=body, headers=tenant)
    assert answer.status_code == 200, answer.text
