"""One contender through all phases on one corpus.

Belongs here: the order of things, and what is inside the clock. Does not belong here: the clock
itself (`process.py`) or the judgement (`truth.py`).

Every phase is a process of its own, as a scheduled job is: what makes it incremental is only what
the phase before left on disk and in Weaviate. It connects and loads the model before the clock
starts. Inside the clock it lists and reads the files, cuts, embeds, writes, and keeps its books.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from agent_pipelines.local.models import packaged_embedder
from resources.embedders import openvino
from resources.embedders.model import find
from tests.bench import corpora
from tests.bench.contenders import Contender, python_of
from tests.bench.corpora import Corpus
from tests.bench.drivers.connection import connect
from tests.bench.process import Cost, Driver, DriverError, running
from tests.bench.server import Server, fresh_server
from tests.bench.truth import Pair, Truth, check

#: Longest chunk, in MiniLM's tokens, special tokens included; chunks do not overlap.
TOKENS = 200

#: Decides which documents are edited and deleted: the same ones for every contender.
_SEED = 20

Say = Callable[[str], None]


@dataclass(frozen=True)
class Phase:
    """What changed since the phase before."""

    name: str
    title: str
    change: Callable[[Path], list[str]]
    """Changes the folder; returns the ids of the documents that it changed."""


PHASES = (
    Phase("cold", "cold", lambda folder: []),
    Phase("no-op", "nothing changed", lambda folder: []),
    Phase("edit", "1 % edited", lambda folder: corpora.edit(folder, 0.01, _SEED)),
    Phase("delete", "10 % deleted", lambda folder: corpora.delete(folder, 0.10, _SEED)),
)


@dataclass(frozen=True)
class Result:
    """One phase of one contender on one corpus."""

    corpus: str
    contender: str
    backend: str
    phase: str
    documents: int
    changed: int
    """Documents that were edited or deleted before this phase."""
    failed: str | None = None
    """Why there is nothing of what follows."""
    cost: Cost | None = None
    call_seconds: float = 0
    """As the contender's process measured its own call."""
    embedded: int = 0
    """Texts that its embedder was given."""
    truth: Truth | None = None
    reported: dict[str, Any] = field(default_factory=dict)
    """What the contender said of itself."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of the call that can be told apart."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that matter, as installed where it ran."""


class Run:
    """One contender on one corpus, with a Weaviate and a copy of the files of its own."""

    def __init__(
        self,
        contender: Contender,
        corpus: Corpus,
        backend: str,
        *,
        every: int,
        cache_dir: Path,
        say: Say,
    ) -> None:
        self._contender = contender
        self._corpus = corpus
        self._backend = backend
        self._every = every
        self._cache_dir = cache_dir
        self._say = say
        self._wanted: list[Pair] = []

    def results(self) -> Iterator[Result]:
        """Go through all phases. One that fails ends this run, not the benchmark."""
        self._python = python_of(self._contender, self._cache_dir, self._say)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            self._folder = Path(folder)
            self._files, self._state = self._folder / "files", self._folder / "state"
            self._state.mkdir()
            corpora.copy(self._corpus, self._files, every=self._every)
            with fresh_server(self._state, self._cache_dir, self._say) as server:
                for phase in PHASES:
                    self._say(phase.title)
                    result = self._result(phase, server)
                    yield result
                    if result.failed:
                        return

    def _result(self, phase: Phase, server: Server) -> Result:
        changed = phase.change(self._files)
        about = {
            "corpus": self._corpus.name,
            "contender": self._contender.name,
            "backend": self._backend,
            "phase": phase.name,
            "documents": len(corpora.files_of(self._files)),
            "changed": len(changed),
        }
        try:
            with self._driver() as driver:
                opened = driver.ask("open", **self._opening(server))
                answer, cost = driver.measure("sync", server.pid, folder=str(self._files))
                if changed or not self._wanted:
                    self._wanted = self._expected()
                with connect(server.address) as client:
                    truth = check(client, answer, self._wanted, changed, _vectors_of(driver))
        except DriverError as error:
            return Result(**about, failed=str(error))
        return Result(
            **about,
            cost=cost,
            call_seconds=answer["seconds"],
            embedded=answer["embedded"],
            truth=truth,
            reported=answer["reported"],
            parts=answer.get("parts", {}),
            versions=opened["versions"],
        )

    def _driver(self) -> AbstractContextManager[Driver]:
        environment = {}
        if self._contender.pins is None:
            environment["AGENT_PIPELINES_CACHE_DIR"] = str(self._cache_dir)
            if self._backend != "stand-in":
                environment["EMBEDDER_BACKEND"] = self._backend
        return running(self._contender, self._python, self._folder / "log", environment)

    def _opening(self, server: Server) -> dict[str, Any]:
        opening = {
            "weaviate": server.address,
            "state": str(self._state),
            "backend": self._backend,
            "tokens": TOKENS,
            "model": str(packaged_embedder()),
        }
        if self._backend == "openvino" and self._contender.pins is not None:
            # None of the peers ships this: they get the model that our own backend converted.
            model = find(None, weights=True)
            opening["converted"] = {
                "folder": str(openvino.obtain(model, self._cache_dir)),
                "settings": openvino.compile_settings(),
            }
        return opening

    def _expected(self) -> list[Pair]:
        """What should be there, by the contender's splitter in a process that saw no store."""
        file = self._folder / "expected.json"
        with self._driver() as driver:
            driver.ask(
                "expected",
                folder=str(self._files),
                file=str(file),
                tokens=TOKENS,
                model=str(packaged_embedder()),
            )
        return [(document, text) for document, text in json.loads(file.read_text("utf-8"))]


def _vectors_of(driver: Driver) -> Callable[[list[str]], list[list[float]]]:
    return lambda texts: cast(list[list[float]], driver.ask("vectors", texts=texts)["vectors"])
