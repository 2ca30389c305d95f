"""How much memory our sync needs for a million chunks, beyond what the process held before.

Belongs here: that one measurement. The source makes documents when they are read and the embedder
is a stand-in of 16 dimensions, so that what grows is the engine's own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.drivers.synthetic import PARAGRAPHS
from tests.bench.workplace import ours_alone

CHUNKS = 1_000_000
DIMENSION = 16

#: Peak beyond the start, in MB, that we promise to stay within.
TARGET_MB = 500


def measure(chunks: int, cache_dir: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Sync `chunks` generated chunks into an empty Weaviate.

    Raises:
        DriverError: the sync failed.
    """
    with ours_alone(cache_dir, say, dimension=DIMENSION) as (driver, server):
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
