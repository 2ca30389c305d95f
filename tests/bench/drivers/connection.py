"""A connection to the run's own Weaviate, as its client's documentation shows.

Belongs here: what the peers and the harness open alike. Ours is opened by our own resource.
"""

import weaviate
from weaviate.classes.init import Auth


def connect(address: dict[str, str]) -> weaviate.WeaviateClient:
    """Connect to the server at `url` and `grpc` with `api_key`."""
    http_host, _, http_port = address["url"].removeprefix("http://").partition(":")
    grpc_host, _, grpc_port = address["grpc"].partition(":")
    return weaviate.connect_to_custom(
        http_host=http_host,
        http_port=int(http_port),
        http_secure=False,
        grpc_host=grpc_host,
        grpc_port=int(grpc_port),
        grpc_secure=False,
        auth_credentials=Auth.api_key(address["api_key"]),
    )
