"""LlamaIndex's IngestionPipeline over its WeaviateVectorStore, as its documentation shows a user.

A document store with `UPSERTS_AND_DELETE` is the mode that deletes what is no longer in the source;
documents have their file's name as id (`filename_as_id`); the pipeline is loaded and persisted
around each run, which is what makes the next one incremental. Batches keep their default sizes.
Runs in LlamaIndex's own environment; nothing of ours is importable there.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import protocol
import standin
from connection import connect
from llama_index.core import Document
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.vector_stores.weaviate import WeaviateVectorStore
from pydantic import PrivateAttr
from transformers import BertTokenizerFast


class LlamaIndex:
    """Speaks `protocol`."""

    def open(
        self,
        *,
        weaviate: dict[str, str],
        state: str,
        backend: str,
        tokens: int,
        model: str,
        converted: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        self._splitter = _splitter(model, tokens)
        self._splitter.split_text(protocol.WARM_UP)
        self._embedding = _embedding(backend, model, converted)
        self._embedding.get_text_embedding("the model is loaded before the clock starts")
        self._store = WeaviateVectorStore(weaviate_client=connect(weaviate), index_name="Bench")
        self._storage = Path(state) / "pipeline_storage"
        return {
            "versions": protocol.versions(
                "llama-index-core",
                "llama-index-vector-stores-weaviate",
                "llama-index-embeddings-huggingface",
                "weaviate-client",
            )
        }

    def sync(self, folder: str) -> dict[str, Any]:
        self._embedding._texts = 0
        pipeline = IngestionPipeline(
            transformations=[self._splitter, self._embedding],
            docstore=SimpleDocumentStore(),
            vector_store=self._store,
            docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
        )
        started = time.perf_counter()
        if self._storage.exists():
            pipeline.load(str(self._storage))
        loaded = time.perf_counter()
        nodes = pipeline.run(documents=_documents(folder))
        ran = time.perf_counter()
        pipeline.persist(str(self._storage))
        return {
            "collection": "Bench",
            "text_property": "text",
            "document_property": "ref_doc_id",
            "embedded": self._embedding._texts,
            "reported": {"nodes": len(nodes)},
            "parts": {
                "loading its state": loaded - started,
                "persisting its state": time.perf_counter() - ran,
            },
        }

    def expected(self, *, folder: str, file: str, tokens: int, model: str) -> dict[str, Any]:
        nodes = _splitter(model, tokens)(_documents(folder))
        return protocol.write_expected(
            file, [(str(node.ref_doc_id), node.get_content()) for node in nodes]
        )

    def vectors(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"vectors": self._embedding.get_text_embedding_batch(list(texts))}


def _splitter(model: str, tokens: int) -> SentenceSplitter:
    # It counts without the two special tokens that the model reads as well.
    return SentenceSplitter(
        chunk_size=tokens - 2,
        chunk_overlap=0,
        tokenizer=BertTokenizerFast.from_pretrained(model).tokenize,
    )


def _documents(folder: str) -> list[Document]:
    return [Document(text=text, id_=id_) for id_, text in protocol.documents(folder)]


def _embedding(backend: str, model: str, converted: dict[str, Any] | None) -> BaseEmbedding:
    """An embedding that counts the texts it was given."""
    if backend == "stand-in":
        return _Computed(standin.vectors)
    # Imported here: what computes vectors is no cost of the indexer where it does not.
    if converted is not None:
        from converted import Network

        return _Computed(Network(**converted).vectors)
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    class Counting(HuggingFaceEmbedding):
        _texts: int = PrivateAttr(0)

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            self._texts += len(texts)
            return super()._get_text_embeddings(texts)

    return Counting(model_name=model, device="cpu")


class _Computed(BaseEmbedding):
    """Vectors that some function computes."""

    _texts: int = PrivateAttr(0)
    _vectors: Any = PrivateAttr()

    def __init__(self, vectors: Callable[[list[str]], Any]) -> None:
        super().__init__()
        self._vectors = vectors

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self._texts += len(texts)
        return self._vectors(texts).tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


if __name__ == "__main__":
    protocol.serve(LlamaIndex())
