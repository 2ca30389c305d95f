"""Taking a port, before anything else is begun.

Belongs here: the listening socket of everything that this program serves. Does not belong here:
what is served on it, or which port is free (`local/ports.py`).
"""

import socket

from agent_pipelines.errors import UserError


def listen(host: str, port: int, *, who: str, remedy: str) -> socket.socket:
    """A socket that listens; close it when done, or use it as a context manager.

    Args:
        host: an address of this machine, of either family.
        port: 0 for one that is free.
        who: what would listen, as whoever started it knows it.
        remedy: how to name another address.

    Raises:
        UserError: nothing can listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, for asyncio sees to it that answers are not held back (Nagle's
    # algorithm, 40 ms) only where it is.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(
            f"{who} cannot listen on {host} port {port}: {error}", remedy=remedy
        ) from error
    return listener
