"""Who asks, and whether what they send may be read: the one gate of the API.

Belongs here: refusing a request before anything of it is understood, for what it is or because too
many arrive at once, and naming its tenant. Does not belong here: what lets somebody in
(`toolservers/shell/callers.py`) or what a tenant may take (`admission.py`).
"""

import logging
from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from agent_pipelines.api.metrics import Metrics
from agent_pipelines.api.options import ApiOptions
from agent_pipelines.api.problems import Problem
from agent_pipelines.toolservers.shell.body import read_body, replay
from agent_pipelines.toolservers.shell.callers import Callers
from agent_pipelines.toolservers.shell.tracing import joined

_log = logging.getLogger(__name__)

#: In an ASGI scope's state: whose request it is.
TENANT = "tenant"

#: All who come where no token and no certificate is asked for.
ANYONE = "anyone"

_REMEDIES = {
    "host": "call it by a name that the variable lists",
    "origin": "call it from a page that the variable lists, or from no page",
    "token": "send `Authorization: Bearer …` with a token of the file that API_TOKEN_FILE names",
}


class Identity:
    """ASGI around the application; every refusal is counted and says what to do about it."""

    def __init__(self, app: ASGIApp, options: ApiOptions, metrics: Metrics) -> None:
        self._app = app
        self._limit = options.max_request_bytes
        # More than would find a place, or room to wait for one, need not arrive.
        self._room = options.max_concurrent + options.max_waiting
        self._arriving = 0
        self._callers = Callers(options)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or hand it on, with its tenant in its scope."""
        # Spaces around a value are no part of it (RFC 9110, 5.5); httptools leaves those behind it.
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        caller = self._callers.who(scope, headers)
        if refusal := self._callers.refusal(headers, caller):
            await self._refuse(
                Problem(
                    refusal.status,
                    refusal.reason,
                    refusal.said,
                    remedy=_REMEDIES[refusal.reason],
                    headers=refusal.headers,
                )
            )(scope, receive, send)
            return
        if self._arriving >= self._room:
            said = f"{self._room} requests are arriving"
            full = Problem(429, "busy", said, remedy="ask again", retry_after=1)
            await self._refuse(full)(scope, receive, send)
            return
        self._arriving += 1
        try:
            body = await read_body(headers, receive, self._limit)
        except TimeoutError as error:
            close = {"Connection": "close"}
            slow = Problem(408, "slow", str(error), remedy="send it at once", headers=close)
            await self._refuse(slow)(scope, receive, send)
            return
        finally:
            self._arriving -= 1
        if body is None:
            said = f"the request is larger than {self._limit} bytes"
            too_large = Problem(413, "size", said, remedy="send less")
            await self._refuse(too_large)(scope, receive, send)
            return
        scope.setdefault("state", {})[TENANT] = caller or ANYONE
        with joined(headers):
            await self._app(scope, replay(body, receive), send)

    def _refuse(self, problem: Problem) -> ASGIApp:
        self._metrics.count_refusal(problem.code)
        _log.warning("refused: %s", problem, extra={"reason": problem.code})
        return problem.response()
