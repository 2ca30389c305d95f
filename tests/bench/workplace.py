"""Where one contender works: its files, its state, its process.

Belongs here: starting its driver, what it is told when it opens, and what should be in its store;
ours alone beside a fresh server, on generated documents. Does not belong here: the order of things
(`phases.py`, `faults.py`).
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from agent_pipelines.local.models import packaged_embedder
from resources.embedders import openvino
from resources.embedders.model import find
from tests.bench import corpora
from tests.bench.contenders import CONTENDERS, Contender, python_of
from tests.bench.corpora import Corpus, Say
from tests.bench.process import Driver, running
from tests.bench.server import Server, fresh_server
from tests.bench.truth import Pair

#: Longest chunk, in MiniLM's tokens, special tokens included; chunks do not overlap.
TOKENS = 200


class Workplace:
    """One contender with a copy of the corpus in a folder of its own."""

    def __init__(
        self,
        contender: Contender,
        backend: str,
        folder: Path,
        corpus: Corpus,
        *,
        every: int = 1,
        cache_dir: Path,
        say: Say,
    ) -> None:
        self.contender = contender
        self.files, self.state = folder / "files", folder / "state"
        self._backend, self._folder, self._cache_dir = backend, folder, cache_dir
        self._python = python_of(contender, cache_dir, say)
        self.state.mkdir()
        corpora.copy(corpus, self.files, every=every)

    def driver(
        self, environment: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Driver]:
        """A process of the contender."""
        ours = {}
        if self.contender.pins is None:
            ours["AGENT_PIPELINES_CACHE_DIR"] = str(self._cache_dir)
            if self._backend != "stand-in":
                ours["EMBEDDER_BACKEND"] = self._backend
        return running(
            self.contender, self._python, self._folder / "log", {**ours, **(environment or {})}
        )

    def open(self, driver: Driver, server: Server) -> dict[str, Any]:
        """Have it connect and load its model; what it answers."""
        opening: dict[str, Any] = {
            "weaviate": server.address,
            "state": str(self.state),
            "backend": self._backend,
            "tokens": TOKENS,
            "model": str(packaged_embedder()),
        }
        if self._backend == "openvino" and self.contender.pins is not None:
            # None of the peers ships this: they get the model that our own backend converted.
            model = find(None, weights=True)
            opening["converted"] = {
                "folder": str(openvino.obtain(model, self._cache_dir)),
                "settings": openvino.compile_settings(),
            }
        return driver.ask("open", **opening)

    def expected(self) -> list[Pair]:
        """What should be there, by the contender's splitter in a process that saw no store."""
        file = self._folder / "expected.json"
        with self.driver() as driver:
            driver.ask(
                "expected",
                folder=str(self.files),
                file=str(file),
                tokens=TOKENS,
                model=str(packaged_embedder()),
            )
        return [(document, text) for document, text in json.loads(file.read_text("utf-8"))]


@contextmanager
def ours_alone(cache_dir: Path, say: Say, **opening: int) -> Iterator[tuple[Driver, Server]]:
    """Ours, open with the stand-in embedder on an empty server; both gone afterwards."""
    ours = CONTENDERS["ours"]
    environment = {"AGENT_PIPELINES_CACHE_DIR": str(cache_dir)}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        state, python = Path(folder) / "state", python_of(ours, cache_dir, say)
        state.mkdir()
        with (
            fresh_server(state, cache_dir, say) as server,
            running(ours, python, Path(folder) / "log", environment) as driver,
        ):
            driver.ask(
                "open",
                weaviate=server.address,
                state=str(state),
                backend="stand-in",
                tokens=TOKENS,
                model=str(packaged_embedder()),
                **opening,
            )
            yield driver, server
