"""How much of the model's own pace a first sync reaches: the same texts by the model alone.

Belongs here: that one comparison, in one process. Does not belong here: other indexers.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from tests.bench.contenders import CONTENDERS
from tests.bench.corpora import Corpus
from tests.bench.server import fresh_server
from tests.bench.workplace import Workplace

#: Of the model's own pace, what we promise to reach.
TARGET = 0.95


def measure(
    corpus: Corpus, every: int, cache_dir: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Embed every chunk of the corpus by the model alone, by a sync, and by the model alone again.

    Raises:
        DriverError: the sync failed.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Workplace(
            CONTENDERS["ours"],
            "openvino",
            Path(folder),
            corpus,
            every=every,
            cache_dir=cache_dir,
            say=say,
        )
        files = str(place.files)
        with fresh_server(place.state, cache_dir, say) as server, place.driver() as driver:
            place.open(driver, server)
            say("the model alone")
            before = driver.ask("alone", folder=files)
            say("a sync")
            synced = driver.ask("sync", folder=files)
            say("the model alone again")
            after = driver.ask("alone", folder=files)
    alone = mean((before["embedding"], after["embedding"]))
    return {
        "texts": before["texts"],
        # Before and after: a machine does not keep its pace.
        "alone": [before["embedding"], after["embedding"]],
        "sync": synced["seconds"],
        "share": alone / synced["seconds"],
        "target": TARGET,
    }
