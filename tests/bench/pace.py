"""How much of the model's own pace a first sync reaches: the same texts by the model alone.

Belongs here: that one comparison, in one process. Does not belong here: other indexers.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from agent_pipelines.local.models import packaged_embedder
from tests.bench.contenders import CONTENDERS, python_of
from tests.bench.corpora import Corpus, copy
from tests.bench.process import running
from tests.bench.server import fresh_server
from tests.bench.workplace import TOKENS

#: Of the model's own pace, what we promise to reach.
TARGET = 0.95


def measure(
    corpus: Corpus, every: int, cache_dir: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Embed every chunk of the corpus by the model alone, by a sync, and by the model alone again.

    Raises:
        DriverError: the sync failed.
    """
    ours = CONTENDERS["ours"]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        state, files = Path(folder) / "state", Path(folder) / "files"
        state.mkdir()
        copy(corpus, files, every=every)
        environment = {"AGENT_PIPELINES_CACHE_DIR": str(cache_dir)}
        with (
            fresh_server(state, cache_dir, say) as server,
            running(
                ours, python_of(ours, cache_dir, say), Path(folder) / "log", environment
            ) as driver,
        ):
            driver.ask(
                "open",
                weaviate=server.address,
                state=str(state),
                backend="openvino",
                tokens=TOKENS,
                model=str(packaged_embedder()),
            )
            say("the model alone")
            before = driver.ask("alone", folder=str(files))
            say("a sync")
            synced = driver.ask("sync", folder=str(files))
            say("the model alone again")
            after = driver.ask("alone", folder=str(files))
    alone = mean((before["embedding"], after["embedding"]))
    return {
        "texts": before["texts"],
        # Before and after: a machine does not keep its pace.
        "alone": [before["embedding"], after["embedding"]],
        "sync": synced["seconds"],
        "share": alone / synced["seconds"],
        "target": TARGET,
    }
