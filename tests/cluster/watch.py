"""Objects of a cluster as they are now, told by the API server instead of asked for.

Belongs here: following lists of objects. Does not belong here: what is waited for.
"""

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, TypeVar

from tests.cluster.control_plane import ControlPlane
from tests.processes import crowd

_T = TypeVar("_T")

#: Seconds between two looks at the clock.
_AT_MOST = 1.0

Objects = Mapping[str, dict[str, Any]]
"""By name."""


class Watch:
    """Follows lists of one namespace each until it is ended. Used by one thread."""

    def __init__(self, control_plane: ControlPlane, **paths: str) -> None:
        """`paths`: of lists, such as `pods="/api/v1/namespaces/default/pods"`."""
        self._changed = threading.Condition()
        self._found: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in paths}
        self._broken: BaseException | None = None
        self._ending = False
        self._connections: list[http.client.HTTPSConnection] = []
        self._threads: list[threading.Thread] = []
        admin = control_plane.keys.issue("watch", group="system:masters")
        context = ssl.create_default_context(cafile=str(control_plane.keys.authority))
        context.load_cert_chain(admin.certificate, admin.key)
        for kind, path in paths.items():
            listed = control_plane.ask("GET", path)
            self._found[kind] = {item["metadata"]["name"]: item for item in listed["items"]}
            version = listed["metadata"]["resourceVersion"]
            connection = http.client.HTTPSConnection(
                control_plane.addresses.host, control_plane.addresses.port, context=context
            )
            connection.request("GET", f"{path}?watch=1&resourceVersion={version}")
            response = connection.getresponse()
            assert response.status == 200, response.read()
            self._connections.append(connection)
            thread = threading.Thread(target=self._follow, args=(kind, response), daemon=True)
            self._threads.append(thread)
            thread.start()

    def until(
        self,
        condition: Callable[[Mapping[str, Objects]], _T],
        seconds: float,
        what: Callable[[], str],
    ) -> _T:
        """The first true value of the condition on all lists, by kind; fails after that long, on a
        machine that has nothing else to do.
        """
        left, before = seconds, monotonic()
        with self._changed:
            while not (found := condition(self._found)):
                assert self._broken is None, f"no watch any more: {self._broken}"
                assert left > 0, f"not within {seconds:g} s: {what()}"
                self._changed.wait(min(left, _AT_MOST))
                before, since = monotonic(), before
                left -= (before - since) / crowd()
        return found

    def end(self) -> None:
        self._ending = True
        for connection in self._connections:
            with contextlib.suppress(OSError):
                assert connection.sock is not None
                # Not closed: that waits for whoever reads.
                connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _follow(self, kind: str, response: http.client.HTTPResponse) -> None:
        try:
            for line in response:
                event = json.loads(line)
                item = event["object"]
                assert event["type"] != "ERROR", item
                with self._changed:
                    name = item["metadata"]["name"]
                    if event["type"] == "DELETED":
                        self._found[kind].pop(name, None)
                    else:
                        self._found[kind][name] = item
                    self._changed.notify_all()
            raise EOFError("the API server has ended it")
        except Exception as error:
            if not self._ending:
                with self._changed:
                    self._broken = error
                    self._changed.notify_all()
