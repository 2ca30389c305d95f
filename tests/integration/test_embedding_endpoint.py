"""An embedding server over HTTP: a scripted one for what goes wrong, a real vLLM for the truth."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.indexing.embedding import Embedder, EmbeddingError, Vectors, embed_checked
from agent_pipelines.indexing.golden import GOLDEN_TEXT, MIN_COSINE, cosine
from agent_pipelines.local import vllm
from agent_pipelines.local.models import packaged_embedder
from agent_pipelines.local.parts import Parts
from resources import embedder as resource
from resources.embedder import EmbedderResource
from resources.embedders.model import find
from resources.embedders.pytorch import PytorchEmbedder
from tests.engine import HashEmbedder
from tests.loopback import LoopbackServer
from tests.scripted_embeddings import ScriptedEmbeddings

REPOSITORY = Path(__file__).parent.parent.parent
NAME = "all-MiniLM-L6-v2"
HASHES = HashEmbedder()


def hashes(texts: Sequence[str]) -> Vectors:
    return np.array([HASHES.vector(text) for text in texts])


def served(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"id": name, "object": "model", "owned_by": "test", **more} for name in names]


@pytest.fixture(autouse=True)
def each_opens_its_own() -> Iterator[None]:
    yield
    resource._at.cache_clear()


@pytest.fixture
def server() -> Iterator[ScriptedEmbeddings]:
    with ScriptedEmbeddings(hashes, served(NAME)) as running:
        yield running


def opened(server: ScriptedEmbeddings, model: str | None = None) -> Embedder:
    return EmbedderResource(base_url=server.base_url, model=model).open()


def test_vectors_come_in_order_from_small_requests_of_which_few_are_under_way(
    server: ScriptedEmbeddings,
) -> None:
    embedder = opened(server)
    texts = [f"text {n} " * (n % 7 + 1) for n in range(700)]
    embedder.identity  # noqa: B018 - asks for a probe
    server.requests.clear()
    server.seconds = 0.02
    np.testing.assert_allclose(embed_checked(embedder, texts), hashes(texts), atol=1e-6)
    asked = [len(request["input"]) for request in server.requests]
    assert sum(asked) == 700
    assert max(asked) == 64
    assert server.most_at_once == 4
    assert {request["model"] for request in server.requests} == {NAME}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(server: ScriptedEmbeddings, status: int) -> None:
    embedder = opened(server)
    server.failures = [status] * 4
    np.testing.assert_allclose(embed_checked(embedder, ["one"]), hashes(["one"]), atol=1e-6)


def test_a_server_that_does_not_recover_is_unavailable(server: ScriptedEmbeddings) -> None:
    embedder = opened(server)
    embedder.identity  # noqa: B018 - asks for a probe
    server.failures = [503] * 100
    with pytest.raises(UnavailableError, match=r"does not answer: .*503"):
        embedder.embed(["one"])
    assert len(server.requests) == 1 + 6


def test_a_server_that_is_gone_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match=r"http://127.0.0.1:9/v1 does not answer"):
        EmbedderResource(base_url="http://127.0.0.1:9/v1").open()


def test_the_model_is_found_under_its_name_its_folder_or_its_folders_name(
    server: ScriptedEmbeddings, tmp_path: Path
) -> None:
    folder = tmp_path / "minilm"
    folder.symlink_to(packaged_embedder())
    for name in (str(folder), "minilm"):
        server.served = served("another", name)
        opened(server, str(folder)).embed(["one"])
        assert server.requests[-1]["model"] == name
        resource._at.cache_clear()


def test_a_model_that_is_not_served_is_an_error_that_says_what_is(
    server: ScriptedEmbeddings,
) -> None:
    server.served = served("BAAI/bge-m3")
    with pytest.raises(UserError, match=f"does not serve '{NAME}'; it serves 'BAAI/bge-m3'"):
        opened(server)


def test_a_model_in_a_folder_is_the_same_one_as_here(
    server: ScriptedEmbeddings, embedder: Embedder
) -> None:
    """So that moving the work to a server, or back, rebuilds no index."""
    ours = embedder.identity
    theirs = opened(server).identity
    assert (theirs.name, theirs.digest, theirs.max_tokens) == (
        ours.name,
        ours.digest,
        ours.max_tokens,
    )
    assert (theirs.dimension, theirs.normalized) == (8, True), "told by a vector, not assumed"


def test_a_limit_of_the_server_is_kept(server: ScriptedEmbeddings) -> None:
    server.served = served(NAME, max_model_len=100)
    embedder = opened(server)
    assert embedder.identity.max_tokens == 100
    embedder.embed(["one"])
    assert server.requests[-1]["truncate_prompt_tokens"] == 100


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[1:],
        lambda data: [],
        lambda data: [{**item, "index": 0} for item in data],
        lambda data: [{**item, "embedding": None} for item in data],
        lambda data: [{**item, "embedding": [1.0] * item["index"]} for item in data],
        lambda data: [{**item, "embedding": [1.0, 0.0]} for item in data],
    ],
    ids=["missing", "none", "doubled", "null", "ragged", "dimension"],
)
def test_an_answer_that_is_not_one_vector_per_text_is_refused(
    server: ScriptedEmbeddings, spoil: Any
) -> None:
    embedder = opened(server)
    embedder.identity  # noqa: B018 - asks for a probe
    server.spoil = spoil
    with pytest.raises(EmbeddingError):
        embed_checked(embedder, ["one", "two"])


def test_what_the_server_refuses_is_told_from_what_a_person_must_change(
    server: ScriptedEmbeddings,
) -> None:
    embedder = opened(server)
    server.failures = [401]
    with pytest.raises(UserError, match="EMBEDDER_API_KEY"):
        embedder.embed(["one"])
    server.failures = [400]
    with pytest.raises(EmbeddingError, match="refused"):
        embedder.embed(["one"])


ASK = """
from resources.embedder import EmbedderResource
EmbedderResource().open().embed(["one"])
"""


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(server: ScriptedEmbeddings) -> None:
    server.seconds = 300
    asking = subprocess.Popen(
        [sys.executable, "-c", ASK],
        env={**os.environ, "EMBEDDER_BASE_URL": server.base_url},
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not server.requests and asking.poll() is None:
        time.sleep(0.05)
    asking.send_signal(signal.SIGINT)
    _, said = asking.communicate(timeout=60)
    assert said.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host/v1", "http://", "http://host:port/v1"]
)
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(UserError, match=f"EMBEDDER_BASE_URL '{url}' is not an http"):
        EmbedderResource(base_url=url).open()


@pytest.mark.parametrize("path", ["", "/page"])
def test_an_address_without_v1_is_told_so(server: ScriptedEmbeddings, path: str) -> None:
    with pytest.raises(UserError, match="write EMBEDDER_BASE_URL like"):
        EmbedderResource(base_url=server.base_url.removesuffix("/v1") + path).open()


class Hub(LoopbackServer):
    """A model hub with one model: enough of its API to list and fetch files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: set[str] = set()

    def routes(self) -> list[Route]:
        return [
            Route("/api/models/some/model/revision/main", self._info),
            Route("/api/models/some/model/tree/{revision}", self._tree),
            Route(
                "/some/model/resolve/{revision}/{path:path}", self._file, methods=["GET", "HEAD"]
            ),
        ]

    async def _info(self, _request: Request) -> Response:
        return JSONResponse({"id": "some/model", "sha": "c" * 40})

    async def _tree(self, _request: Request) -> Response:
        files = [p for p in self.folder.rglob("*") if p.is_file()]
        return JSONResponse(
            [
                {
                    "type": "file",
                    "path": path.relative_to(self.folder).as_posix(),
                    "size": path.stat().st_size,
                    "oid": "c" * 40,
                }
                for path in files
            ]
        )

    async def _file(self, request: Request) -> Response:
        path = request.path_params["path"]
        self.fetched.add(path)
        return FileResponse(
            self.folder / path, headers={"x-repo-commit": "c" * 40, "etag": f'"{path}"'}
        )


TELL = """
from resources.embedder import EmbedderResource
identity = EmbedderResource().open().identity
print(identity.name, identity.max_tokens)
"""


def test_of_a_hub_model_only_tokenizer_and_configuration_are_fetched(
    server: ScriptedEmbeddings, tmp_path: Path
) -> None:
    server.served = served("some/model")
    with Hub(packaged_embedder()) as hub:
        told = subprocess.run(
            [sys.executable, "-c", TELL],
            env={
                **os.environ,
                "HF_ENDPOINT": hub.base_url.removesuffix("/v1"),
                "HF_HOME": str(tmp_path),
                "EMBEDDER_BASE_URL": server.base_url,
                "EMBEDDER_MODEL": "some/model",
            },
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert told.stdout.split() == ["some/model", "256"]
    assert hub.fetched == {"config.json", "sentence_bert_config.json", "tokenizer.json"}


@pytest.mark.slow
@pytest.mark.vllm
def test_a_real_vllm_gives_the_vectors_of_pytorch(tmp_path: Path) -> None:
    local = PytorchEmbedder(find(None, weights=True), tmp_path)
    folder = packaged_embedder()
    with Parts(tmp_path) as parts:
        at = parts.ensure(
            "vllm",
            lambda: vllm.launch(
                folder,
                tmp_path,
                served_name=NAME,
                max_model_len=None,
                extra_args=("--runner", "pooling"),
            ),
            progress=print,
        )
        remote = EmbedderResource(base_url=at["url"]).open()
        assert remote.identity == local.identity
        texts = [
            GOLDEN_TEXT,
            "one",
            "a text that nobody reads to its end " * 60,
            *GOLDEN_TEXT.split(),
        ]
        ours, theirs = embed_checked(local, texts), embed_checked(remote, texts)
    for text, one, other in zip(texts, ours, theirs, strict=True):
        assert cosine(one, other) >= MIN_COSINE, text[:60]
