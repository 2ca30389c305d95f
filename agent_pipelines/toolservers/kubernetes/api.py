"""GETs at the Kubernetes API server, with the credentials that this process has.

Belongs here: finding those, and telling an outage from an answer. Does not belong here: which
objects may be read (`cluster`), or what they mean.

Objects stay as the API server's JSON: what a field is called is what Kubernetes' documentation
calls it, and fields that are newer than this client are there too.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from agent_pipelines.errors import UnavailableError, UserError

#: Requests at once.
CONCURRENT = 16

_TIMEOUT = urllib3.Timeout(connect=3.0, read=8.0)

_KUBECONFIG = "~/.kube/config"

_REMEDY = (
    "set KUBECONFIG to a kubeconfig whose current context is the cluster to read, or run this in a "
    "pod with a service account (deploy/rbac/kubernetes-tool.yaml)"
)


class AnswerError(Exception):
    """The API server answered, and not with what was asked for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Api:
    """The API server of one cluster. Safe to use from several threads."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._pool: urllib3.PoolManager = client.rest_client.pool_manager
        self._host: str = client.configuration.host

    def get(self, path: str, query: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        """The JSON object at this path.

        Raises:
            AnswerError: it answers with an error.
            UnavailableError: it does not answer, or what answers is no API server.
        """
        content = self.read(path, query)
        try:
            found = json.loads(content)
        except ValueError as error:
            raise UnavailableError(
                f"{self._host} answers, but not with JSON: {content[:80]!r}", remedy=_REMEDY
            ) from error
        assert isinstance(found, dict)
        return found

    def read(self, path: str, query: Mapping[str, str | int] | None = None) -> bytes:
        """The bytes at this path; raises as `get` does."""
        response = self._ask(f"{path}?{urlencode(query)}" if query else path)
        if response.status < 300:
            return response.data
        message = _message(response.data) or str(response.reason)
        if response.status == 401:
            raise UnavailableError(
                f"{self._host} does not accept the credentials of this tool server", remedy=_REMEDY
            )
        raise AnswerError(response.status, message)

    def close(self) -> None:
        self._pool.clear()

    def _ask(self, path: str) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json, */*", "User-Agent": "agent-pipelines"}
        # Reads a service account's token again when it is due: they live an hour.
        self._client.update_params_for_auth(headers, [], ["BearerToken"])
        try:
            try:
                return self._get(path, headers)
            except urllib3.exceptions.ProtocolError:
                # A connection kept open that the server has closed meanwhile. Only a read: again.
                return self._get(path, headers)
        except urllib3.exceptions.HTTPError as error:
            raise UnavailableError(
                f"{self._host} does not answer: {error}",
                remedy="see that the API server runs and can be reached from here",
            ) from error

    def _get(self, path: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        return self._pool.request(
            "GET", self._host + path, headers=headers, timeout=_TIMEOUT, retries=False
        )


@contextmanager
def connected() -> Iterator[Api]:
    """The cluster of KUBECONFIG (or ~/.kube/config), else the one that this pod runs in.

    Raises:
        UserError: there is neither, or it cannot be used.
    """
    # A second, and only for whoever serves these tools.
    from kubernetes import client

    kubeconfig = os.environ.get("KUBECONFIG") or _KUBECONFIG
    there = "KUBECONFIG" in os.environ or Path(kubeconfig).expanduser().exists()
    configuration = configured(
        kubeconfig if there else None,
        otherwise=f"there is no {kubeconfig}, KUBECONFIG is not set, and this is no pod",
        remedy=_REMEDY,
    )
    configuration.connection_pool_maxsize = CONCURRENT
    api = Api(client.ApiClient(configuration))
    try:
        yield api
    finally:
        api.close()


def configured(kubeconfig: str | None, *, otherwise: str, remedy: str) -> Any:
    """A `kubernetes.client.Configuration` of this file, else of the cluster that this pod runs in.

    Raises:
        UserError: it cannot be used, or there is neither; ``otherwise`` says the latter.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        if kubeconfig is None:
            config.load_incluster_config(configuration)
        else:
            config.load_kube_config(kubeconfig, None, configuration, persist_config=False)
    except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        where = otherwise if kubeconfig is None else f"KUBECONFIG {kubeconfig}"
        raise UserError(
            f"no Kubernetes API server can be found: {where}: {error}", remedy=remedy
        ) from error
    return configuration


def _message(body: bytes) -> str:
    """Of a `Status` object, which every error of an API server is."""
    try:
        status = json.loads(body)
    except ValueError:
        return body[:200].decode(errors="replace")
    return str(status.get("message", "")) if isinstance(status, dict) else ""
