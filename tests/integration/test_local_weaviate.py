"""The real server: ready, on loopback, and its data still there after a restart on other ports."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
import weaviate as client
from weaviate.classes.config import DataType, Property
from weaviate.classes.init import Auth

from agent_pipelines.local import weaviate
from agent_pipelines.local.parts import Parts
from agent_pipelines.settings import Settings


@pytest.fixture(scope="module")
def binary() -> Path:
    return weaviate.obtain(Settings().cache_dir, print)


def connected(addresses: Mapping[str, str], key: str | None = None) -> client.WeaviateClient:
    return client.connect_to_local(
        port=int(addresses["url"].rpartition(":")[2]),
        grpc_port=int(addresses["grpc"].rpartition(":")[2]),
        auth_credentials=Auth.api_key(key) if key else None,
    )


def test_data_survives_a_restart_on_other_ports(tmp_path: Path, binary: Path) -> None:
    with Parts(tmp_path) as parts:
        before = parts.ensure("weaviate", lambda: weaviate.launch(binary, tmp_path))
        with connected(before) as to:
            assert to.get_meta()["version"] == weaviate.VERSION
            things = to.collections.create(
                "Thing", properties=[Property(name="text", data_type=DataType.TEXT)]
            )
            things.data.insert({"text": "kept"}, vector=[1.0, 0.0])
            to.alias.create(alias_name="Things", target_collection="Thing")
    (tmp_path / "parts" / "weaviate.ports.json").unlink()
    with Parts(tmp_path) as parts:
        after = parts.ensure("weaviate", lambda: weaviate.launch(binary, tmp_path))
        assert not set(before.values()) & set(after.values())
        with connected(after) as to:
            (found,) = to.collections.get("Things").query.near_vector([1.0, 0.0]).objects
            assert found.properties == {"text": "kept"}
            to.collections.get("Thing").data.insert({"text": "and writable"}, vector=[0.0, 1.0])


def test_a_misspelt_collection_is_not_created(tmp_path: Path, binary: Path) -> None:
    with Parts(tmp_path) as parts:
        at = parts.ensure("weaviate", lambda: weaviate.launch(binary, tmp_path))
        with connected(at) as to:
            with pytest.raises(client.exceptions.WeaviateBaseError):
                to.collections.get("Thnig").data.insert({"text": "lost"}, vector=[1.0])
            assert not to.collections.exists("Thnig")


def test_with_a_key_nobody_comes_in_without_it(tmp_path: Path, binary: Path) -> None:
    with Parts(tmp_path) as parts:
        at = parts.ensure("weaviate", lambda: weaviate.launch(binary, tmp_path, "secret"))
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{at['url']}/v1/schema", timeout=5)
        with connected(at, "secret") as to:
            assert to.collections.list_all() == {}
