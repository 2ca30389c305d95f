"""Our engine, driven as a Dagster run drives it, without Dagster: sync, then commit.

Belongs here: everything of the benchmark that imports the engine. Does not belong here: measuring.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import protocol
import standin
import synthetic
from tokenizers import Tokenizer

from agent_pipelines.health.evaluate import look
from agent_pipelines.health.signal import State
from agent_pipelines.health.signals import catalogue
from agent_pipelines.health.view import View
from agent_pipelines.indexing.chunking import Chunker, ChunkerSpec
from agent_pipelines.indexing.embedding import Embedder, EmbedderIdentity, Vectors, embed_checked
from agent_pipelines.indexing.index import Index
from agent_pipelines.indexing.live import commit
from agent_pipelines.indexing.sources import Document, Ref, Source
from agent_pipelines.indexing.sources.files import Files
from agent_pipelines.indexing.sync import sync
from agent_pipelines.progress import LogProgress
from agent_pipelines.state.engine import open_engine
from resources.embedder import EmbedderResource
from resources.weaviate import WeaviateStore

#: The index's name.
INDEX = "bench"

#: What comes before the number of documents where the source is not a folder.
GENERATED = "generated:"


class Ours:
    """Speaks `protocol`."""

    def open(
        self,
        *,
        weaviate: dict[str, str],
        state: str,
        backend: str,
        tokens: int,
        model: str,
        dimension: int = standin.DIMENSION,
    ) -> dict[str, Any]:
        self._embedder = _Counting(
            _StandIn(model, dimension) if backend == "stand-in" else EmbedderResource().open(model)
        )
        self._embedder.embed(["the model is loaded before the clock starts"])
        self._chunker = ChunkerSpec(tokens, 0)
        self._store = WeaviateStore(weaviate["url"], weaviate["grpc"], weaviate["api_key"])
        self._engine = open_engine(f"sqlite:///{Path(state) / 'state.db'}")
        return {"versions": protocol.versions("weaviate-client", "torch", "sentence-transformers")}

    def sync(self, folder: str) -> dict[str, Any]:
        self._embedder.texts = 0
        index = self._index(folder)
        report = sync(
            index,
            accept_deletions=False,
            verify=False,
            progress=LogProgress(lambda line: print(line, flush=True)),
        )
        snapshot = commit(index)
        return {
            "collection": index.alias,
            "text_property": "text",
            "document_property": "document_id",
            "embedded": self._embedder.texts,
            "reported": {
                "listed": report.listed,
                "changed": report.changed,
                "deleted": report.deleted,
                "failed": report.failed,
                "written": report.written,
                "retired": report.retired,
                "chunks": snapshot.chunks,
            },
            "parts": {"listing": report.seconds_listing},
        }

    def expected(self, *, folder: str, file: str, tokens: int, model: str) -> dict[str, Any]:
        source, chunker = _source(folder), Chunker(ChunkerSpec(tokens, 0), _tokenizer(model))
        pairs = [
            (chunk.document_id, chunk.text)
            for ref in source.list()
            for chunk in chunker.chunks(source.load(ref), index="any", fingerprint="any")
        ]
        return protocol.write_expected(file, pairs)

    def signals(self, folder: str) -> dict[str, Any]:
        """The signals that are not true, by name."""
        with View(self._index(folder), committed=True) as view:
            readings = look(view, catalogue())
        return {
            "not_true": {
                signal.name: f"{reading.state}: {reading.observed}"
                for signal, reading in readings.items()
                if reading.state is not State.TRUE
            }
        }

    def look(self, folder: str, depth: str) -> dict[str, Any]:
        """Seconds for each signal of a depth, in the order of the catalogue, and what is not true.

        Signals share what they look at: the first that needs it pays for it.
        """
        signals = [signal for signal in catalogue() if signal.depth == depth]
        seconds, not_true = {}, {}
        with View(self._index(folder), committed=True) as view:
            for signal in signals:
                started = perf_counter()
                reading = look(view, [signal])[signal]
                seconds[signal.name] = perf_counter() - started
                if reading.state is not State.TRUE:
                    not_true[signal.name] = f"{reading.state}: {reading.observed}"
        return {"signals": seconds, "not_true": not_true}

    def alone(self, folder: str) -> dict[str, Any]:
        """The model on every text of the folder, each once, cut before the clock starts."""
        source = _source(folder)
        chunker = Chunker(self._chunker, self._embedder.tokenizer())
        texts = {
            chunk.text
            for ref in source.list()
            for chunk in chunker.chunks(source.load(ref), index="any", fingerprint="any")
        }
        started = perf_counter()
        embed_checked(self._embedder, list(texts))
        return {"texts": len(texts), "embedding": perf_counter() - started}

    def vectors(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"vectors": self._embedder.embed(texts).tolist()}

    def _index(self, folder: str) -> Index:
        return Index(
            name=INDEX,
            source=_source(folder),
            chunker=self._chunker,
            max_delete_share=0.2,
            max_staleness_seconds=600,
            embedder=self._embedder,
            store=self._store,
            engine=self._engine,
        )


class _Counting:
    """An embedder that counts the texts it was given."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.texts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.texts += len(texts)
        return self._embedder.embed(texts)


class _StandIn:
    """`standin`'s vectors with MiniLM's tokenizer."""

    #: It does not mind how much it gets at once.
    pack_tokens = 1 << 20

    def __init__(self, model: str, dimension: int) -> None:
        self._model = model
        self.identity = EmbedderIdentity("stand-in", "0" * 64, dimension, 256, normalized=True)

    def tokenizer(self) -> Tokenizer:
        return _tokenizer(self._model)

    def embed(self, texts: Sequence[str]) -> Vectors:
        made: Vectors = standin.vectors(texts, self.identity.dimension)
        return made


class _Generated:
    """Documents made when they are read: nothing of them is on disk or stays in memory."""

    def __init__(self, documents: int) -> None:
        self._documents = documents

    def check(self) -> None:
        pass

    def list(self) -> Iterator[Ref]:
        return (Ref(str(number), "1") for number in range(self._documents))

    def load(self, ref: Ref) -> Document:
        text = synthetic.text_of(int(ref.id))
        return Document(ref.id, ref.version, text, f"Document {ref.id}", "generated", "markdown")


def _tokenizer(model: str) -> Tokenizer:
    return Tokenizer.from_file(f"{model}/tokenizer.json")


def _source(folder: str) -> Source:
    if folder.startswith(GENERATED):
        return _Generated(int(folder.removeprefix(GENERATED)))
    return Files(kind="files", url=folder).open(Path(folder))


if __name__ == "__main__":
    protocol.serve(Ours())
