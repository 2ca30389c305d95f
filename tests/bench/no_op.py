"""What it costs to find that nothing changed: our engine's call, and the whole command around it.

Belongs here: that one comparison. A real, tiny model is made for it, so that `agent-pipelines sync`
can build the index at all: embedding 100,000 chunks with MiniLM would take an hour.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from agent_pipelines.local.models import packaged_embedder
from tests.bench.contenders import CONTENDERS, HERE, python_of
from tests.bench.corpora import Corpus
from tests.bench.process import DriverError, environment_of, running
from tests.bench.server import Server, fresh_server
from tests.bench.workplace import TOKENS

#: The index's name, in the assets folder and in `drivers/ours.py`.
_INDEX = "bench"

#: How long an interrupted command may take to end its parts.
_PATIENCE_SECONDS = 60


def measure(corpus: Corpus, cache_dir: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Build the index with the command, then find nothing changed in three ways.

    Raises:
        DriverError: a command or the engine's call failed.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        model, state, assets = (Path(folder) / name for name in ("model", "state", "assets"))
        state.mkdir()
        _write_assets(assets, corpus)
        _run([sys.executable, str(HERE / "drivers/tiny_model.py"), model, packaged_embedder()], {})
        sync = [*(sys.executable, "-m", "agent_pipelines.cli"), "sync", _INDEX]
        environment = {
            "AGENT_PIPELINES_STATE_DIR": str(state),
            "AGENT_PIPELINES_CACHE_DIR": str(cache_dir),
            "AGENT_PIPELINES_ASSETS": str(assets),
            "EMBEDDER_MODEL": str(model),
        }
        with fresh_server(state, cache_dir, say) as server:
            say("the command, cold")
            _run(sync, environment)
            say("the command, nothing changed")
            warm = _run(sync, environment)
            say("the engine, nothing changed")
            answer, engine = _engine(corpus, Path(folder), model, cache_dir, server)
        say("the command without a running Weaviate")
        alone = _run(sync, environment)
    listing = answer["parts"]["listing"]
    rest = answer["seconds"] - listing
    return {
        "chunks": answer["reported"]["chunks"],
        "rows": [
            {"what": "the engine's call", "wall": answer["seconds"], "cpu": engine},
            {"what": "… of which listing the source", "wall": listing, "cpu": None},
            {"what": "… of which the rest", "wall": rest, "cpu": None},
            {"what": "`agent-pipelines sync`, Weaviate running", **warm},
            {"what": "`agent-pipelines sync`, starting and ending Weaviate", **alone},
        ],
    }


def _engine(
    corpus: Corpus, folder: Path, model: Path, cache_dir: Path, server: Server
) -> tuple[dict[str, Any], float]:
    ours = CONTENDERS["ours"]
    environment = {"AGENT_PIPELINES_CACHE_DIR": str(cache_dir)}
    python = python_of(ours, cache_dir, lambda _: None)
    with running(ours, python, folder / "log", environment) as driver:
        driver.ask(
            "open",
            weaviate=server.address,
            state=str(folder / "state"),
            backend="torch",
            tokens=TOKENS,
            model=str(model),
        )
        answer, cost = driver.measure("sync", server.pid, folder=str(corpus.folder))
    if answer["reported"]["changed"] or answer["embedded"]:
        raise DriverError(f"the engine found something changed: {answer['reported']}")
    return answer, cost.cpu_seconds


def _run(argv: list[Any], environment: Mapping[str, str]) -> dict[str, float]:
    """Run a command to its end; its wall and CPU seconds."""
    used, started = _cpu_of_children(), perf_counter()
    with subprocess.Popen(
        list(map(str, argv)),
        env=environment_of(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is ours to handle
    ) as process:
        try:
            _, said = process.communicate()
        except BaseException:
            process.terminate()  # it takes down what it started
            process.wait(_PATIENCE_SECONDS)
            raise
    if process.returncode:
        raise DriverError(f"{' '.join(map(str, argv[1:]))} failed:\n{said[-2000:]}")
    return {"wall": perf_counter() - started, "cpu": _cpu_of_children() - used}


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _write_assets(assets: Path, corpus: Corpus) -> None:
    """An assets folder with one index: JSON is YAML."""
    (assets / _INDEX).mkdir(parents=True)
    (assets / _INDEX / "defs.yaml").write_text(
        json.dumps(
            {
                "type": "agent_pipelines.components.IndexComponent",
                "attributes": {"source": {"kind": "files", "url": str(corpus.folder)}},
            }
        )
    )
