"""One contender through all phases on one corpus.

Belongs here: the order of things, and what is inside the clock. Does not belong here: the clock
itself (`process.py`) or the judgement (`truth.py`).

Every phase is a process of its own, as a scheduled job is: what makes it incremental is only what
the phase before left on disk and in Weaviate. It connects and loads the model before the clock
starts. Inside the clock it lists and reads the files, cuts, embeds, writes, and keeps its books.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import corpora
from tests.bench.contenders import Contender
from tests.bench.corpora import Corpus
from tests.bench.drivers.connection import connect
from tests.bench.process import Cost, DriverError
from tests.bench.server import Server, fresh_server
from tests.bench.truth import Pair, Truth, check, vectors_of
from tests.bench.workplace import Workplace

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
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            self._place = Workplace(
                self._contender,
                self._backend,
                Path(folder),
                self._corpus,
                every=self._every,
                cache_dir=self._cache_dir,
                say=self._say,
            )
            with fresh_server(self._place.state, self._cache_dir, self._say) as server:
                for phase in PHASES:
                    self._say(phase.title)
                    result = self._result(phase, server)
                    yield result
                    if result.failed:
                        return

    def _result(self, phase: Phase, server: Server) -> Result:
        place = self._place
        changed = phase.change(place.files)
        about = {
            "corpus": self._corpus.name,
            "contender": self._contender.name,
            "backend": self._backend,
            "phase": phase.name,
            "documents": len(corpora.files_of(place.files)),
            "changed": len(changed),
        }
        try:
            with place.driver() as driver:
                opened = place.open(driver, server)
                answer, cost = driver.measure("sync", server.pid, folder=str(place.files))
                if changed or not self._wanted:
                    self._wanted = place.expected()
                with connect(server.address) as client:
                    truth = check(client, answer, self._wanted, changed, vectors_of(driver))
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
