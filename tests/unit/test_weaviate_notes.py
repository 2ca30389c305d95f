"""A note is written within seconds or not at all; silence is not taken for a refusal."""

import socket
from collections.abc import Iterator

import pytest

from agent_pipelines.errors import UnavailableError
from resources import weaviate_notes
from resources.weaviate_notes import Notes


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers, as one that is stopped or swaps."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_hangs_is_given_up_on(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own writes would wait for a minute and a half: a tick has no time for that."""
    monkeypatch.setattr(weaviate_notes, "_DEADLINE", 0.2)
    notes = Notes(silent, None, "quorum")
    for ask in (lambda: notes.read("k"), lambda: notes.write("k", "v", replicas=1)):
        with pytest.raises(UnavailableError, match="does not answer: timed out"):
            ask()
    notes.close()


def test_a_server_that_is_gone_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        Notes("http://127.0.0.1:9", "key", "one").read("k")
