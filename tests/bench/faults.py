"""`python -m tests.bench.faults`: the same faults under our indexer and its peers, for real.

Belongs here: what is done to a healthy index, what each indexing job said of it, and whether the
store was right after that run and after the next one without the fault. Does not belong here: the
faults that only our own machinery has (`tests/faults`).
"""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from weaviate import WeaviateClient
from weaviate.classes.query import Filter

from agent_pipelines.settings import Settings
from agent_pipelines.terminal import table, waiting
from tests.bench import corpora
from tests.bench.contenders import CONTENDERS, Contender
from tests.bench.drivers import standin
from tests.bench.drivers.connection import connect
from tests.bench.process import DriverError
from tests.bench.server import Server, fresh_server
from tests.bench.truth import Pair, Truth, check, gone, vectors_of
from tests.bench.workplace import Workplace

#: Documents of the corpus, ten chunks each.
_DOCUMENTS = 100

#: Objects that a stranger's hand touches.
_TOUCHED = 20

_SEED = 5

#: Objects after which a first run is killed.
_HALF_DONE = 500


@dataclass(frozen=True)
class Where:
    """Where a contender keeps its chunks."""

    client: WeaviateClient
    collection: str
    text: str
    document: str

    def some(self) -> list[Any]:
        """The same objects every time, with their vectors."""
        objects = self.client.collections.use(self.collection).iterator(include_vector=True)
        return sorted(objects, key=lambda each: str(each.uuid))[:_TOUCHED]

    @property
    def data(self) -> Any:
        return self.client.collections.use(self.collection).data


@dataclass(frozen=True)
class Fault:
    """One way in which an index stops being true."""

    title: str
    files: Callable[[Path], object] = lambda folder: None
    """What happens to the source before the run."""
    store: Callable[[Where], object] = lambda where: None
    """What happens to the store before the run."""
    embedder: str = ""
    """What is wrong with the embedder during the run; see `drivers/standin.py`."""
    source_is_lost: bool = False
    """The source still has what it does not list: nothing may be deleted."""
    killed: bool = False
    """The run is killed in its midst."""


def _delete(where: Where) -> None:
    where.data.delete_many(Filter.by_id().contains_any([each.uuid for each in where.some()]))


def _alter(where: Where) -> None:
    for each in where.some():
        where.data.update(uuid=each.uuid, properties={where.text: "What nobody ever wrote."})


def _exchange_vectors(where: Where) -> None:
    some = where.some()
    for one, other in zip(some, reversed(some), strict=True):
        where.data.update(uuid=one.uuid, properties={}, vector=other.vector["default"])


def _add(where: Where) -> None:
    for number, each in enumerate(where.some()):
        properties = {where.text: f"Nobody's {number}.", where.document: "nobody.md"}
        where.data.insert(properties, vector=each.vector["default"])


def _drop(where: Where) -> None:
    with suppress(Exception):  # not an alias
        answer = where.client.alias.get(alias_name=where.collection)
        if answer is not None:
            where.client.collections.delete(answer.collection)
            return
    where.client.collections.delete(where.collection)


def _empty(folder: Path) -> None:
    for each in folder.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def _halve(folder: Path) -> None:
    for path in corpora.files_of(folder)[::2]:
        path.unlink()


def _edit(folder: Path) -> None:
    corpora.edit(folder, 0.1, _SEED)


FAULTS = (
    Fault("objects deleted from the store", store=_delete),
    Fault("objects added to the store", store=_add),
    Fault("text of objects overwritten", store=_alter),
    Fault("vectors of objects exchanged", store=_exchange_vectors),
    Fault("the collection dropped", store=_drop),
    Fault("the source lists nothing (a mount is gone)", files=_empty, source_is_lost=True),
    Fault("the source lists half (a truncated listing)", files=_halve, source_is_lost=True),
    Fault("the embedder fails at one of 10 edits", files=_edit, embedder="raises"),
    Fault("one of 10 edits gets a vector of NaN", files=_edit, embedder="nan"),
    Fault("another model, same name and dimension", files=_edit, embedder="other"),
    Fault("kill -9 in the midst of a rebuild", killed=True),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one contender under one fault."""

    fault: str
    contender: str
    said: str
    """By the indexing job itself, in the run with the fault."""
    not_true: Mapping[str, str]
    """Signals, of those that have any."""
    with_fault: Truth
    after: Truth
    """After the next run, without the fault."""


class Trial:
    """One contender under one fault, from a healthy index on."""

    def __init__(self, fault: Fault, place: Workplace, server: Server) -> None:
        self._fault, self._place, self._server = fault, place, server

    def run(self) -> Outcome:
        """Sync, do the fault, sync with it, undo what of it is outside, sync again.

        Raises:
            DriverError: there is no healthy index to begin with.
        """
        fault, place = self._fault, self._place
        said = self._killed() if fault.killed else ""
        first, answer = self._sync()
        if answer is None:
            raise DriverError(f"{place.contender.title}: {first}")
        healthy = place.expected()
        with connect(self._server.address) as client:
            where = Where(
                client, answer["collection"], answer["text_property"], answer["document_property"]
            )
            kept = place.files.with_name("kept")
            shutil.copytree(place.files, kept)
            fault.files(place.files)
            fault.store(where)
            if not fault.killed:
                said, _ = self._sync({standin.FAULT: fault.embedder})
            wanted = healthy if fault.source_is_lost else place.expected()
            with_fault, not_true = self._judge(client, answer, wanted)
            if fault.source_is_lost:
                shutil.rmtree(place.files)
                kept.rename(place.files)
            self._sync()
            after, _ = self._judge(client, answer, wanted)
        return Outcome(fault.title, place.contender.title, said, not_true, with_fault, after)

    def _sync(
        self, environment: Mapping[str, str] | None = None
    ) -> tuple[str, dict[str, Any] | None]:
        """What the job said, and its answer where it did not fail."""
        with self._place.driver(environment) as driver:
            try:
                self._place.open(driver, self._server)
                answer = driver.ask("sync", folder=str(self._place.files))
            except DriverError as error:
                # The interpreter's parting words come after the error's.
                lines = [line for line in str(error).splitlines() if "ResourceWarning" not in line]
                return f"failed: {lines[-1].strip()}", None
        reported = ", ".join(f"{name} {value}" for name, value in answer["reported"].items())
        return f"success: {reported}", answer

    def _killed(self) -> str:
        """Kill the first run once it has written some."""
        done = threading.Event()
        with self._place.driver() as driver, connect(self._server.address) as client:
            self._place.open(driver, self._server)

            def kill() -> None:
                while not done.wait(0.02):
                    names = [n for n in client.collections.list_all() if n.startswith("Bench")]
                    if sum(len(client.collections.use(name)) for name in names) >= _HALF_DONE:
                        os.kill(driver.pid, signal.SIGKILL)
                        return

            killer = threading.Thread(target=kill)
            killer.start()
            try:
                driver.ask("sync", folder=str(self._place.files))
            except DriverError:
                return "nothing: it was killed"
            finally:
                done.set()
                killer.join()
        raise DriverError("it was done before it could be killed")

    def _judge(
        self, client: WeaviateClient, answer: dict[str, Any], wanted: list[Pair]
    ) -> tuple[Truth, Mapping[str, str]]:
        with self._place.driver() as driver:
            self._place.open(driver, self._server)
            if _holds(client, answer):
                truth = check(client, answer, wanted, [], vectors_of(driver))
            else:
                truth = gone(wanted)
            if self._place.contender.pins is not None:
                return truth, {}
            signals = driver.ask("signals", folder=str(self._place.files))
        return truth, signals["not_true"]


def _holds(client: WeaviateClient, answer: dict[str, Any]) -> bool:
    """Whether there is a collection with what a chunk has: one made anew may have nothing."""
    name = answer["collection"]
    if not (client.collections.exists(name) or name in client.alias.list_all()):
        return False
    properties = {each.name for each in client.collections.use(name).config.get().properties}
    return {answer["text_property"], answer["document_property"]} <= properties


def outcomes(contenders: Sequence[Contender], faults: Sequence[Fault]) -> Iterator[Outcome]:
    """Every contender under every fault."""
    cache_dir = Settings().cache_dir
    console = Console(stderr=True)
    with waiting(console, "corpus:") as say:
        corpus = corpora.synthetic_corpus(cache_dir, _DOCUMENTS, say)
    for fault in faults:
        for contender in contenders:
            with (
                waiting(console, f"{fault.title}, {contender.title}:") as say,
                tempfile.TemporaryDirectory(prefix="faults-") as folder,
            ):
                place = Workplace(
                    contender, "stand-in", Path(folder), corpus, cache_dir=cache_dir, say=say
                )
                with fresh_server(place.state, cache_dir, say) as server:
                    yield Trial(fault, place, server).run()


def main(
    only: Annotated[
        list[str] | None, typer.Option(help="Faults whose title contains this.")
    ] = None,
) -> None:
    """Put every fault under each indexer; print what each said, and what was in its store."""
    chosen = [f for f in FAULTS if only is None or any(word in f.title for word in only)]
    rows = [
        (o.fault, o.contender, o.said, ", ".join(o.not_true), _words(o.with_fault), _words(o.after))
        for o in outcomes(list(CONTENDERS.values()), chosen)
    ]
    columns = (
        *("fault", "indexer", "its job said", "signals not true"),
        *("the store then", "after the next run"),
    )
    Console(width=200).print(table(columns, rows))


def _words(truth: Truth) -> str:
    if truth.right and truth.found == truth.probes:
        return "right"
    counts = {
        "missing": truth.missing,
        "extra": truth.extra,
        "twice": truth.duplicates + truth.ids_twice,
        "not found": truth.probes - truth.found,
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


if __name__ == "__main__":
    typer.run(main)
