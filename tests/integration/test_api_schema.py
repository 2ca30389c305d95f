"""schemathesis against the API's own OpenAPI: what it says of itself is so, whatever is sent."""

import subprocess
import sys
from pathlib import Path

from agent_pipelines.state.engine import open_engine
from tests import shell_server
from tests.api_server import commit, serving, signal_readings, write_assets
from tests.scripted_model import ScriptedModel, says

#: Requests to each operation beside those for each constraint of its schema.
_EXAMPLES = 25


def test_it_answers_as_its_openapi_says(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("north first-secret\n")
    with (
        shell_server.running(tmp_path / "tools") as tools,
        ScriptedModel(lambda _: says({"answer": "x"})) as model,
        serving(
            tmp_path / "api",
            write_assets(tmp_path, tools.url),
            model.base_url,
            token_file=tokens,
        ) as api,
    ):
        engine = open_engine(api.database)
        commit(engine, "docs", 1)
        signal_readings(engine, "docs")
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
