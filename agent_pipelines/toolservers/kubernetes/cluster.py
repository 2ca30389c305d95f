"""What may be read of a cluster: kinds, namespaces, and errors that say what to do next.

Belongs here: the one way from a tool to an object. Does not belong here: what an object means
(`pods`, `deployments`), or what of it is shown (`masking`).
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.toolservers.kubernetes.api import AnswerError, Api

_T = TypeVar("_T")

Reason = Literal["mistaken", "missing", "forbidden", "unavailable"]

#: What Kubernetes allows as a name. Nothing else becomes part of a path.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

#: Names of namespaces or objects that an error lists at most.
_NAMED = 40

#: Objects that are looked through for a name like the one that does not exist.
_LOOKED_THROUGH = 500


class RefusedError(UserError):
    """Why there is no answer, in words for a model; ``reason`` says it to programs."""

    def __init__(self, reason: Reason, message: str, *, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


@dataclass(frozen=True)
class Kind:
    """A kind of object that may be read, and where the API server has it."""

    name: str
    api: str
    plural: str
    namespaced: bool = True


def _kinds(api: str, **plurals: str) -> list[Kind]:
    return [Kind(name, api, plural) for name, plural in plurals.items()]


#: Neither Secrets nor ConfigMaps: what programs are configured with is where people put passwords.
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        *_kinds("/api/v1", pod="pods", service="services"),
        *_kinds("/api/v1", persistentvolumeclaim="persistentvolumeclaims"),
        Kind("node", "/api/v1", "nodes", namespaced=False),
        *_kinds("/apis/apps/v1", deployment="deployments", replicaset="replicasets"),
        *_kinds("/apis/apps/v1", statefulset="statefulsets", daemonset="daemonsets"),
        *_kinds("/apis/batch/v1", job="jobs", cronjob="cronjobs"),
        *_kinds("/apis/resource.k8s.io/v1", resourceclaim="resourceclaims"),
    )
}

POD = KINDS["pod"]
DEPLOYMENT = KINDS["deployment"]
EVENT = Kind("event", "/api/v1", "events")
_NAMESPACE = Kind("namespace", "/api/v1", "namespaces", namespaced=False)


@dataclass(frozen=True)
class Page:
    """Objects of a list, and where it goes on: None at its end."""

    items: Sequence[dict[str, Any]]
    next: str | None


class Cluster:
    """Reads objects of the kinds in `KINDS`, in the namespaces that are allowed (None: in all).

    Every method raises `RefusedError` where there is no such object or no right to read it, and
    `UnavailableError` where the API server does not answer.
    """

    def __init__(self, api: Api, namespaces: Sequence[str] | None) -> None:
        self._api = api
        self._allowed = namespaces

    @property
    def allowed(self) -> Sequence[str] | None:
        return self._allowed

    def get(self, kind: Kind, name: str, namespace: str | None) -> dict[str, Any]:
        """One object."""
        path = self._path(kind, namespace, name)

        def missing() -> RefusedError:
            return self._no_such(kind, name, namespace)

        return self._read(lambda: self._api.get(path), missing)

    def page(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        limit: int,
        cursor: str | None = None,
        labels: str | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Page:
        """Some of a list, in the order of their names; all of it where ``next`` is None."""
        query: dict[str, str | int] = {"limit": limit}
        if cursor:
            query["continue"] = cursor
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = ",".join(f"{key}={value}" for key, value in fields.items())
        path = self._path(kind, namespace)
        found = self._read(lambda: self._api.get(path, query), lambda: _not_served(kind))
        items = found.get("items") or []
        if not items and namespace is not None:
            # A namespace that does not exist has an empty list of everything.
            self._see_that_exists(namespace)
        return Page(items, (found.get("metadata") or {}).get("continue") or None)

    def log(self, pod: str, namespace: str, query: Mapping[str, str | int]) -> bytes:
        """What a container has printed; ``query`` as the API server's `log` takes it."""
        path = f"{self._path(POD, namespace, pod)}/log"

        def missing() -> RefusedError:
            return self._no_such(POD, pod, namespace)

        return self._read(lambda: self._api.read(path, query), missing)

    def ready(self) -> str | None:
        """None when the API server is ready and knows who asks, else why not."""
        try:
            self._api.read("/readyz")
        except UnavailableError as error:
            return error.message
        except AnswerError as error:
            return f"the API server is not ready: {error.message}"
        return None

    def _path(self, kind: Kind, namespace: str | None, name: str | None = None) -> str:
        within = ""
        if kind.namespaced:
            within = f"/namespaces/{self._checked_namespace(namespace)}"
        return f"{kind.api}{within}/{kind.plural}" + (
            "" if name is None else f"/{checked_name(kind.name, name)}"
        )

    def _checked_namespace(self, namespace: str | None) -> str:
        if not namespace:
            raise RefusedError("mistaken", "no namespace is given", remedy=self._choice())
        checked_name("namespace", namespace)
        if self._allowed is not None and namespace not in self._allowed:
            raise RefusedError(
                "forbidden",
                f"namespace {namespace!r} is not one that this tool may read",
                remedy=self._choice(),
            )
        return namespace

    def _read(self, ask: Callable[[], _T], missing: Callable[[], RefusedError]) -> _T:
        """The answer, or what an error of the API server means to whoever asked."""
        try:
            return ask()
        except AnswerError as error:
            match error.status:
                case 404:
                    raise missing() from error
                case 403:
                    raise RefusedError(
                        "forbidden",
                        # Names the service account, the verb, the resource and the namespace.
                        error.message,
                        remedy="do not try again: the service account lacks this right. Whoever "
                        "runs the cluster can give it (deploy/rbac/kubernetes-tool.yaml has "
                        "all that these tools use)",
                    ) from error
                case 410:
                    raise RefusedError(
                        "mistaken",
                        "this cursor is too old: the list has changed since",
                        remedy="begin again without a cursor",
                    ) from error
                case 408 | 429:
                    raise _outage(error) from error
                case status if status >= 500 and "/containerLogs/" not in error.message:
                    raise _outage(error) from error
            # A kubelet that does not answer is no outage of the API server, which is well.
            raise RefusedError(
                "mistaken" if error.status < 500 else "unavailable",
                error.message,
                remedy="change the call accordingly"
                if error.status < 500
                else "the node's kubelet does not answer: `describe` the pod's node",
            ) from error

    def _no_such(self, kind: Kind, name: str, namespace: str | None) -> RefusedError:
        """What does not exist, and what does: a name misread is the usual cause."""
        if kind.namespaced:
            self._see_that_exists(namespace)
        where = f" in namespace {namespace!r}" if kind.namespaced else ""
        there = self._names(kind, namespace)
        close = difflib.get_close_matches(name, there, n=10, cutoff=0.5)
        if close:
            remedy = f"names like it: {', '.join(close)}"
        elif there:
            remedy = f"there are: {_some(there)}"
        else:
            remedy = f"no {kind.name} can be seen there at all"
        return RefusedError("missing", f"there is no {kind.name} {name!r}{where}", remedy=remedy)

    def _see_that_exists(self, namespace: str | None) -> None:
        path = f"{_NAMESPACE.api}/{_NAMESPACE.plural}/{namespace}"
        try:
            self._api.get(path)
        except AnswerError as error:
            if error.status == 404:
                raise RefusedError(
                    "missing",
                    f"namespace {namespace!r} does not exist",
                    remedy=self._choice(),
                ) from error
            # Without the right to read namespaces nothing can be said about this one.

    def _choice(self) -> str:
        names = self._names(_NAMESPACE, None) if self._allowed is None else self._allowed
        return f"use one of: {_some(names)}" if names else "ask for the namespace's name"

    def _names(self, kind: Kind, namespace: str | None) -> Sequence[str]:
        """Those that can be seen; none where there is no right to list them."""
        try:
            found = self._api.get(self._path(kind, namespace), {"limit": _LOOKED_THROUGH})
        except AnswerError:
            return []
        return [item["metadata"]["name"] for item in found.get("items") or []]


def checked_name(what: str, name: str) -> str:
    """A name that Kubernetes allows, and nothing that a path or a selector could be made of."""
    if not _NAME.fullmatch(name):
        raise RefusedError(
            "mistaken",
            f"{name!r} cannot be the name of a {what}",
            remedy="use lower-case letters, digits, '-' and '.', as the lists give names",
        )
    return name


def _not_served(kind: Kind) -> RefusedError:
    return RefusedError(
        "missing", f"this cluster does not have {kind.plural} ({kind.api})", remedy="leave it out"
    )


def _outage(error: AnswerError) -> UnavailableError:
    return UnavailableError(
        f"the API server answers with {error.status}: {error.message}",
        remedy="see that the API server and its etcd are well",
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
