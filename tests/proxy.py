"""A relay between a client and a TCP server, which closes its connections when it is told to.

Belongs here: relaying bytes. Does not belong here: what is in them.
"""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class Proxy:
    """Relays to `target` (host:port) while its `with` block lasts."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._left: int | None = None
        self._again = False
        self.cuts = 0
        """How often connections were closed."""

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def cut_after(self, sent: int, *, again: bool = False) -> None:
        """Close everything once clients have sent so many bytes; `again`: and again after that."""
        with self._lock:
            self._left, self._every, self._again = sent, sent, again

    def mend(self) -> None:
        """Close nothing any more."""
        with self._lock:
            self._left = None

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # To close it would not wake who waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._close_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            for source, sink, counted in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._relay, args=(source, sink, counted), daemon=True
                ).start()

    def _relay(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if counted and self._is_over(len(data)):
                    self._close_all()
                    return
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_over(self, sent: int) -> bool:
        with self._lock:
            if self._left is None:
                return False
            self._left -= sent
            if self._left >= 0:
                return False
            self._left = self._every if self._again else None
            self.cuts += 1
            return True

    def _close_all(self) -> None:
        with self._lock:
            gone, self._open = self._open, set()
        for end in gone:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
