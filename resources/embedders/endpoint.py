"""An embedding server: any OpenAI-compatible `/v1/embeddings`, such as a vLLM pooling server.

Belongs here: finding the model there, asking it with patience, refusing what is no answer. Does not
belong here: starting one, or judging vectors (`indexing/embedding.py`).
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import HttpUrl

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.indexing.embedding import EmbedderIdentity, EmbeddingError, Vectors
from resources.embedders.model import PROBE, Model

if TYPE_CHECKING:
    import openai
    from tokenizers import Tokenizer

T = TypeVar("T")

#: Texts per request, and requests in flight: what a GPU has queued while it works.
_REQUEST_TEXTS = 64
_IN_FLIGHT = 4

#: Seconds to connect, and to wait for one answer; a busy server queues.
_TIMEOUT_CONNECT, _TIMEOUT = 5.0, 60.0

#: The client waits 0.5, 1, 2, 4, 8 s between them, or as long as the server says.
_RETRIES = 5

#: vLLM without --api-key takes any; the client insists on one.
_NO_KEY = "none"


class EndpointEmbedder:
    """A model that somebody else has loaded. Only its tokenizer and configuration are here."""

    def __init__(self, model: Model, base_url: str, api_key: str | None) -> None:
        """Find the model at the server.

        Raises:
            UserError: the address is none, or the server does not serve the model.
            UnavailableError: it does not answer.
        """
        import httpx2
        import openai

        try:
            HttpUrl(base_url)
        except ValueError as error:
            raise UserError(
                f"EMBEDDER_BASE_URL {base_url!r} is not an http(s) URL",
                remedy="write it like http://localhost:8000/v1",
            ) from error
        self._model = model
        self._base_url = base_url
        timeout = httpx2.Timeout(_TIMEOUT, connect=_TIMEOUT_CONNECT)
        key = api_key or _NO_KEY
        # Asked whenever an index is opened, `status` included: no long patience here.
        with openai.OpenAI(
            base_url=base_url, api_key=key, timeout=timeout, max_retries=1
        ) as client:
            served = self._served(client)
        self._name = str(served.id)
        # vLLM says how much it reads, and refuses more unless it is told to cut.
        limit = getattr(served, "max_model_len", None)
        self._longest = min(limit or model.longest, model.longest)
        self._options = {"truncate_prompt_tokens": self._longest} if limit else None
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=key, timeout=timeout, max_retries=_RETRIES
        )
        self._turns = asyncio.Semaphore(_IN_FLIGHT)
        # Requests wait in a thread of their own: an interrupt ends them, and not the other way
        # round, and whoever asks may or may not have an event loop running.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="embedder", daemon=True).start()

    @cached_property
    def identity(self) -> EmbedderIdentity:
        """Who this embedder is: dimension and length are those of a vector it was asked for."""
        probe = self._wait(self._ask([PROBE]))[0]
        return self._model.identified(probe, self._longest)

    @property
    def pack_tokens(self) -> int:
        """As many texts as are asked for at the same time."""
        return _IN_FLIGHT * _REQUEST_TEXTS * self._longest

    def tokenizer(self) -> "Tokenizer":
        """A fresh copy of the model's tokenizer."""
        return self._model.tokenizer()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One vector per text: shape (len(texts), dimension), float32.

        Raises:
            EmbeddingError: the server refused, or its answer is not one vector per text.
            UnavailableError: the server does not answer, also when asked again.
        """
        vectors = self._wait(self._ask_all(texts))
        if wrong := {v.shape[1] for v in vectors} - {self.identity.dimension}:
            raise EmbeddingError(
                f"{self._name} at {self._base_url} gave vectors of {wrong.pop()} dimensions "
                f"instead of {self.identity.dimension}"
            )
        return np.concatenate(vectors)

    def _wait(self, answer: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(answer, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C included
            future.cancel()
            raise

    async def _ask_all(self, texts: Sequence[str]) -> list[Vectors]:
        requests = [
            asyncio.create_task(self._ask(texts[start : start + _REQUEST_TEXTS]))
            for start in range(0, len(texts), _REQUEST_TEXTS)
        ]
        try:
            return await asyncio.gather(*requests)
        except BaseException:
            for request in requests:
                request.cancel()
            raise

    async def _ask(self, texts: Sequence[str]) -> Vectors:
        async with self._turns:
            with self._answering():
                try:
                    answer = await self._client.embeddings.create(
                        model=self._name, input=list(texts), extra_body=self._options
                    )
                    given = {item.index: item.embedding for item in answer.data}
                    if sorted(given) != list(range(len(texts))):
                        raise ValueError(f"{len(texts)} texts gave {len(given)} vectors")
                    vectors = np.array([given[index] for index in range(len(texts))], np.float32)
                    if vectors.ndim != 2:
                        raise ValueError("a vector is not a list of numbers")
                    return vectors
                except (AttributeError, TypeError, ValueError) as error:
                    raise EmbeddingError(
                        f"{self._base_url} did not answer with one vector per text: {error}"
                    ) from error

    def _served(self, client: "openai.OpenAI") -> Any:
        try:
            with self._answering():
                served = client.models.list().data
        except (AttributeError, EmbeddingError) as error:  # a page for people, or a refusal
            raise self._no_server(str(error)) from error
        for model in served:
            if model.id in self._model.names:
                return model
        raise UserError(
            f"the embedding server at {self._base_url} does not serve {self._model.name!r}; it "
            f"serves {', '.join(repr(model.id) for model in served) or 'nothing'}",
            remedy="set EMBEDDER_MODEL, or the index's `embedder`, to what it serves, or have it "
            "serve the model under this name",
        )

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Tell a server that does not answer from one that refuses and from a wrong setting."""
        import openai

        try:
            yield
        except (
            openai.APIConnectionError,
            openai.RateLimitError,
            openai.InternalServerError,
        ) as error:
            raise UnavailableError(
                f"the embedding server at {self._base_url} does not answer: {error}",
                remedy="check that it runs, and EMBEDDER_BASE_URL",
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(
                f"the embedding server at {self._base_url} refuses the key: {error}",
                remedy="set EMBEDDER_API_KEY to one it takes",
            ) from error
        except openai.NotFoundError as error:
            raise self._no_server(str(error)) from error
        except openai.OpenAIError as error:
            raise EmbeddingError(f"{self._base_url} refused: {error}") from error

    def _no_server(self, why: str) -> UserError:
        return UserError(
            f"{self._base_url} is no OpenAI-compatible server of embeddings: {why}",
            remedy="write EMBEDDER_BASE_URL like http://localhost:8000/v1",
        )
