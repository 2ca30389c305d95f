"""Who may call: by the host they mean, the page they come from, their certificate or their token.

Belongs here: whom a request comes from, and the reasons to refuse it. Does not belong here: the
form of a refusal (`gate.py`), TLS (`certificates.py`) and the file of tokens (`tokens.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import Scope

from agent_pipelines.toolservers.shell.options import ServerOptions
from agent_pipelines.toolservers.shell.tokens import Tokens

#: In an ASGI scope's state: whom the client's certificate names.
PEER = "agent_pipelines.peer"


@dataclass(frozen=True)
class Refusal:
    """Why a request is not for its sender, and the HTTP status that says so."""

    reason: str
    status: int
    said: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Callers:
    """Those that the options let in.

    Raises:
        UserError: the token file cannot be used.
    """

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._tokens = (
            Tokens(options.token_file, variable=f"{options.prefix}TOKEN_FILE")
            if options.token_file
            else None
        )

    def who(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str | None:
        """The name of a token's owner or a certificate's; None: nobody known."""
        if self._tokens:
            return self._tokens.caller(headers.get(b"authorization", b""))
        peer: str | None = scope.get("state", {}).get(PEER)
        return peer

    def refusal(self, headers: Mapping[bytes, bytes], caller: str | None) -> Refusal | None:
        """Why this request gets nowhere; None: it may. ``caller`` is what `who` said."""
        prefix = self._options.prefix
        host = headers.get(b"host", b"").decode("latin-1")
        if not _allowed(host, self._options.allowed_hosts):
            said = f"Host {host!r} is not one of this server's; see {prefix}ALLOWED_HOSTS"
            return Refusal("host", 421, said)
        # Only browsers send one.
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and not _allowed(origin, self._options.allowed_origins):
            said = f"Origin {origin!r} may not call; see {prefix}ALLOWED_ORIGINS"
            return Refusal("origin", 403, said)
        if self._tokens and caller is None:
            given = b"authorization" in headers
            return Refusal(
                "token",
                401,
                "the bearer token is not known here" if given else "a bearer token is missing",
                {"WWW-Authenticate": 'Bearer error="invalid_token"' if given else "Bearer"},
            )
        return None


def _allowed(value: str, patterns: tuple[str, ...]) -> bool:
    """Whether a Host or an Origin is one of ``patterns``; `:*` at the end of one: any port."""
    for pattern in patterns:
        bare = pattern.removesuffix(":*")
        if value == bare or (bare != pattern and _with_port(value, bare)):
            return True
    return False


def _with_port(value: str, bare: str) -> bool:
    name, _, port = value.rpartition(":")
    return name == bare and port.isdigit()
