"""`tools search`: the search tool server, over every index of the assets folder.

Belongs here: handing the server its connections.
"""

import asyncio
from contextlib import ExitStack

from agent_pipelines.health.readers import CheckedSearcher
from agent_pipelines.session import Session
from agent_pipelines.toolservers import search, shell
from resources.embedder import EmbedderResource
from resources.state import StateResource
from resources.weaviate import WeaviateResource


def serve_search(session: Session, *, host: str, port: int, probes_port: int | None) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    with ExitStack() as stack:
        indexes = {
            name: stack.enter_context(
                component.open(WeaviateResource(), EmbedderResource(), StateResource())
            )
            for name, component in session.loaded.indexes.items()
        }
        for index in indexes.values():
            # Loads the model now: whoever calls first would wait for it beyond their patience.
            index.embedder.embed([index.name])
        searcher = CheckedSearcher(indexes)
        asyncio.run(
            shell.serve(
                search.build_server(searcher),
                host=host,
                port=port,
                ready=search.readiness(searcher),
                probes_port=probes_port,
            )
        )
