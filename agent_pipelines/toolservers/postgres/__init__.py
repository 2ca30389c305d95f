"""The PostgreSQL tool server: what an agent may read of a database, and no way to change it.

Belongs here: the walls between a statement that a model wrote and the database (`statement`,
`names`, `role`, `session`), what is read through them (`reading`, `catalogue`), and the tools
(`server`). Does not belong here: how a server is served (`shell`), and databases of our own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from agent_pipelines.toolservers.server import Opened, ToolServer


@contextmanager
def _open() -> Iterator[Opened]:
    # Imported here: naming a server loads no driver.
    from agent_pipelines.toolservers.postgres.server import open_server

    with open_server() as opened:
        yield opened


TOOL_SERVER = ToolServer("postgres", "read a PostgreSQL database, and change nothing", _open)
