"""LangChain's indexing API over langchain-weaviate, as its documentation shows a user.

`index()` with the defaults of its batches; `cleanup="full"` is the mode that deletes what is no
longer in the source. Its keys stay SHA-1: the other encoders give ids that are no UUIDs, which
Weaviate refuses. Runs in LangChain's own environment; nothing of ours is importable there.
"""

from collections.abc import Callable, Sequence
from typing import Any

import protocol
import standin
from connection import connect
from langchain_classic.indexes import SQLRecordManager
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import index
from langchain_text_splitters import RecursiveCharacterTextSplitter, TextSplitter
from langchain_weaviate import WeaviateVectorStore
from transformers import BertTokenizerFast


class LangChain:
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
        self._embeddings = _Counting(_embeddings(backend, model, converted))
        self._embeddings.embed_documents(["the model is loaded before the clock starts"])
        self._store = WeaviateVectorStore(
            client=connect(weaviate),
            index_name="Bench",
            text_key="text",
            embedding=self._embeddings,
        )
        self._records = SQLRecordManager(
            "weaviate/bench", db_url=f"sqlite:///{state}/record_manager_cache.sql"
        )
        self._records.create_schema()
        return {
            "versions": protocol.versions(
                "langchain-core", "langchain-weaviate", "langchain-huggingface", "weaviate-client"
            )
        }

    def sync(self, folder: str) -> dict[str, Any]:
        self._embeddings.texts = 0
        reported = index(
            _chunks(self._splitter, folder),
            self._records,
            self._store,
            cleanup="full",
            source_id_key="source",
        )
        return {
            "collection": "Bench",
            "text_property": "text",
            "document_property": "source",
            "embedded": self._embeddings.texts,
            "reported": dict(reported),
        }

    def expected(self, *, folder: str, file: str, tokens: int, model: str) -> dict[str, Any]:
        chunks = _chunks(_splitter(model, tokens), folder)
        return protocol.write_expected(
            file, [(chunk.metadata["source"], chunk.page_content) for chunk in chunks]
        )

    def vectors(self, texts: Sequence[str]) -> dict[str, Any]:
        return {"vectors": self._embeddings.embed_documents(list(texts))}


def _embeddings(backend: str, model: str, converted: dict[str, Any] | None) -> Embeddings:
    if backend == "stand-in":
        return _Computed(standin.vectors)
    # Imported here: what computes vectors is no cost of the indexer where it does not.
    if converted is not None:
        from converted import Network

        return _Computed(Network(**converted).vectors)
    from langchain_huggingface import HuggingFaceEmbeddings

    return HuggingFaceEmbeddings(model_name=model, model_kwargs={"device": "cpu"})


def _splitter(model: str, tokens: int) -> TextSplitter:
    # It counts without the two special tokens that the model reads as well.
    return RecursiveCharacterTextSplitter.from_huggingface_tokenizer(
        BertTokenizerFast.from_pretrained(model), chunk_size=tokens - 2, chunk_overlap=0
    )


def _chunks(splitter: TextSplitter, folder: str) -> list[Document]:
    return splitter.split_documents(
        [
            Document(page_content=text, metadata={"source": id_})
            for id_, text in protocol.documents(folder)
        ]
    )


class _Counting(Embeddings):
    """Embeddings that count the texts they were given."""

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        self.texts = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.texts += len(texts)
        return self._embeddings.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._embeddings.embed_query(text)


class _Computed(Embeddings):
    """Vectors that some function computes."""

    def __init__(self, vectors: Callable[[list[str]], Any]) -> None:
        self._vectors = vectors

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._vectors(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


if __name__ == "__main__":
    protocol.serve(LangChain())
