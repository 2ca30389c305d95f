"""What it costs to look whether an index is true: a tick and an audit, at two sizes.

Belongs here: that one measurement of ours. The documents are generated and the embedder is a
stand-in, so that what is measured is the looking.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.drivers.synthetic import PARAGRAPHS
from tests.bench.process import DriverError
from tests.bench.workplace import ours_alone

#: Chunks of the larger index; the smaller has a tenth, to see what grows with the index.
CHUNKS = 100_000

#: What we promise of the larger one on two cores, in seconds.
TARGETS = {"tick": 2, "audit": 60}


def measure(chunks: int, cache_dir: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Look at an index of so many chunks, and at one of a tenth of them.

    Raises:
        DriverError: a sync failed, or a signal of an untouched index is not true.
    """
    return {
        "targets": TARGETS,
        "rows": [_look(size, cache_dir, say) for size in (chunks // 10, chunks)],
    }


def _look(chunks: int, cache_dir: Path, say: Callable[[str], None]) -> dict[str, Any]:
    corpus = f"generated:{chunks // PARAGRAPHS}"
    with ours_alone(cache_dir, say) as (driver, server):
        say(f"syncing {chunks:,} chunks")
        driver.ask("sync", folder=corpus)
        say(f"looking at {chunks:,} chunks")
        # The first look of a process also imports and connects.
        driver.ask("look", folder=corpus, depth="tick")
        tick = driver.ask("look", folder=corpus, depth="tick")
        audit, cost = driver.measure("look", server.pid, folder=corpus, depth="audit")
    for look in (tick, audit):
        if look["not_true"]:
            raise DriverError(f"an untouched index is not true: {look['not_true']}")
    return {
        "chunks": chunks,
        "tick": tick["seconds"],
        "listing": tick["signals"]["fresh"],
        "audit": audit["seconds"],
        "audit_cpu": cost.cpu_seconds,
        "store_cpu": cost.store_cpu_seconds,
        "rss_peak_mb": cost.rss_peak_mb,
        "signals": {**tick["signals"], **audit["signals"]},
    }
