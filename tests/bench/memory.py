"""How much memory our sync needs for a million chunks, beyond what the process held before.

Belongs here: that one measurement. The source makes documents when they are read and the embedder
is a stand-in of 16 dimensions, so that what grows is the engine's own.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_pipelines.local.models import packaged_embedder
from tests.bench.contenders import CONTENDERS, python_of
from tests.bench.drivers.synthetic import PARAGRAPHS
from tests.bench.process import running
from tests.bench.server import fresh_server
from tests.bench.workplace import TOKENS

CHUNKS = 1_000_000
DIMENSION = 16

#: Peak beyond the start, in MB, that we promise to stay within.
TARGET_MB = 500


def measure(chunks: int, cache_dir: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Sync `chunks` generated chunks into an empty Weaviate.

    Raises:
        DriverError: the sync failed.
    """
    ours = CONTENDERS["ours"]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        state = Path(folder) / "state"
        state.mkdir()
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
                backend="stand-in",
                tokens=TOKENS,
                model=str(packaged_embedder()),
                dimension=DIMENSION,
            )
            say(f"syncing {chunks:,} chunks")
            answer, cost = driver.measure(
                "sync", server.pid, folder=f"generated:{chunks // PARAGRAPHS}"
            )
    return {
        "chunks": answer["reported"]["chunks"],
        "before_mb": cost.rss_before_mb,
        "peak_mb": cost.rss_peak_mb,
        "target_mb": TARGET_MB,
        "wall": cost.wall_seconds,
        "cpu": cost.cpu_seconds,
    }
