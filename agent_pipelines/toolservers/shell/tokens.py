"""Who calls, by the bearer token that they send (RFC 6750).

Belongs here: the file of tokens and comparing with it. Does not belong here: the answer to a
caller who has none (`callers.py`).
"""

import hmac
import logging
from pathlib import Path

from agent_pipelines.errors import UserError

_log = logging.getLogger(__name__)


class Tokens:
    """The tokens of a file, read again when it changes: a new one works beside the old one.

    A line is a token, or a caller's name, spaces and the token. ``variable`` names the file.

    Raises:
        UserError: the file holds none or cannot be read.
    """

    def __init__(self, path: Path, *, variable: str) -> None:
        self._path = path
        self._changed = 0
        try:
            self._callers = self._read()
        except (OSError, ValueError) as error:
            raise UserError(
                f"{variable} {path} cannot be used: {error}",
                remedy="write one token into it, or lines of a caller's name and a token",
            ) from error

    def caller(self, authorization: bytes) -> str | None:
        """Whose token an Authorization header carries; None: nobody's."""
        self._refresh()
        scheme, _, presented = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        presented = presented.strip()
        # All are compared, each in constant time: how long it takes says nothing.
        known = [name for token, name in self._callers if hmac.compare_digest(token, presented)]
        return known[0] if known else None

    def _refresh(self) -> None:
        try:
            if self._path.stat().st_mtime_ns != self._changed:
                self._callers = self._read()
        except (OSError, ValueError) as error:
            _log.error("%s cannot be used, the older tokens stay: %s", self._path, error)

    def _read(self) -> list[tuple[bytes, str]]:
        self._changed = self._path.stat().st_mtime_ns
        callers = []
        for number, line in enumerate(self._path.read_text().splitlines(), 1):
            match line.split():
                case []:
                    pass
                case [token]:
                    callers.append((token.encode(), "bearer"))
                case [name, token]:
                    callers.append((token.encode(), name))
                case _:
                    # Never the line itself: it is a secret.
                    raise ValueError(f"line {number} has more than a name and a token")
        if not callers:
            raise ValueError("it holds no token")
        return callers
