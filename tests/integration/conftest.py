"""Fixtures of the engine's tests: an index on the session's Weaviate, over the file's own `source`.

Belongs here: what several files need alike; a file that needs another one defines its own.
"""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from agent_pipelines.indexing.index import Index
from agent_pipelines.state.engine import open_engine
from resources.weaviate import WeaviateStore
from tests.engine import MemorySource, named_index


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """One state database for a whole file; every test has an index of its own in it."""
    return open_engine(f"sqlite:///{tmp_path_factory.mktemp('state') / 'state.db'}")


@pytest.fixture
def index(store: WeaviateStore, engine: Engine, source: MemorySource) -> Iterator[Index]:
    with named_index(store, engine, source) as made:
        yield made
