"""TLS towards a tool or model server: whom we trust, who we are, what a refused handshake means.

Belongs here: the files, their renewal, and words for every way a handshake fails. Does not belong
here: what is sent over the connection (`tool_session.py`, `llm_client.py`).
"""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import httpx2

from agent_pipelines.errors import UserError

#: Seconds between two looks at the files; a certificate is renewed hours before it ends.
_LOOK_EVERY = 1.0

#: Seconds for a handshake that is made only to hear why the last one was refused.
_HEAR_SECONDS = 2.0

#: What OpenSSL finds wrong with the server's certificate, by `verify_code`.
_EXPIRED, _NOT_YET, _OTHER_NAME = (10,), (9,), (62, 64)

#: What servers say when they refuse our certificate or that there is none, as part of OpenSSL's
#: `reason`. Not all of them say it truly, and servers on asyncio say nothing.
_OF_OURS = ("ALERT_CERTIFICATE", "ALERT_BAD_CERTIFICATE", "ALERT_UNKNOWN_CA", "HANDSHAKE_FAILURE")
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")


@dataclass(frozen=True)
class TlsFiles:
    """Paths of PEM files, named as in the YAML of a tool server."""

    ca: Path | None = None
    """Certificates of those who may sign the server's; None: what this machine trusts."""
    cert: Path | None = None
    """Ours, with those between it and its CA; None: we show none."""
    key: Path | None = None

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        yield from ((name, path) for name, path in vars(self).items() if path is not None)


class ClientTls:
    """One context for all connections to a server; a renewed file counts for those to come.

    What a renewed `ca` no longer holds is still trusted until the process ends.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Raises:
            UserError: one of them cannot be read, or is not what it should be.
        """
        self.files = files
        self._looked = monotonic()
        self._seen = _stamps(files)
        # Reading what a machine trusts takes longer than all the rest of connecting.
        self.context = _made(files) if any(files) else _default()

    def renew(self) -> None:
        """Read the files again where they have changed; half-written ones at the next look."""
        if monotonic() - self._looked < _LOOK_EVERY or not any(self.files):
            return
        self._looked = monotonic()
        with contextlib.suppress(UserError, OSError):
            seen = _stamps(self.files)
            if seen == self._seen:
                return
            _made(self.files)  # in vain, if they do not fit together yet
            _load(self.context, self.files)
            self._seen = seen


def explain(error: BaseException | None, url: str, files: TlsFiles) -> str | None:
    """Why TLS failed, and what to do; None where it was not TLS that failed."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    host = urlsplit(url).hostname
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_theirs(error, url, host or "", files)
    reason = error.reason or ""
    if any(part in reason for part in _OF_OURS):
        return _of_ours(url, files)
    if any(part in reason for part in _NOT_TLS):
        return f"{url} does not speak TLS: write http:// in `url`, or name its TLS port"
    return f"{url}: TLS failed: {reason or error}"


def why_refused(url: str, tls: ClientTls) -> str | None:
    """Ask again by a handshake alone, and wait for what the server has to say of it. Blocks.

    In TLS 1.3 a client certificate is refused after the client's handshake is over. Whoever is
    content then waits for a request; whoever closes the connection instead has refused us.
    """
    parts = urlsplit(url)
    try:
        with (
            socket.create_connection((parts.hostname or "", parts.port or 443), _HEAR_SECONDS) as s,
            tls.context.wrap_socket(s, server_hostname=parts.hostname) as secure,
        ):
            accepted = False
            with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
                accepted = secure.recv(1) != b""
            return None if accepted else _of_ours(url, tls.files)
    except ssl.SSLError as error:
        return explain(error, url, tls.files)
    except OSError:
        return None  # it is not there; or it is content with us, and waits


def expiry(files: TlsFiles) -> str | None:
    """What is to be said where our certificate has expired."""
    if files.cert is None:
        return None
    from cryptography.x509 import load_pem_x509_certificate

    with contextlib.suppress(OSError, ValueError):
        ours = load_pem_x509_certificate(files.cert.read_bytes())
        if ours.not_valid_after_utc < datetime.now(UTC):
            ended = f"{ours.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
            return f"the client certificate {files.cert} has expired on {ended}; renew it"
    return None


def _of_ours(url: str, files: TlsFiles) -> str:
    if files.cert is None:
        return f"{url} wants a client certificate, and none is set: set `cert` and `key`"
    return f"{url} refuses us: " + (
        expiry(files)
        or f"the client certificate {files.cert} is not signed by a CA that the server trusts; set "
        "`cert` and `key` to one that is"
    )


def _of_theirs(error: ssl.SSLCertVerificationError, url: str, host: str, files: TlsFiles) -> str:
    if error.verify_code in _EXPIRED:
        return f"the certificate of {url} has expired: renew it on the server"
    if error.verify_code in _NOT_YET:
        return f"the certificate of {url} is not valid yet: compare the clocks of both machines"
    if error.verify_code in _OTHER_NAME:
        return (
            f"the certificate of {url} is not for {host!r}: use in `url` a name that it is for, "
            "or have one issued for this name"
        )
    trusted = f"in {files.ca}" if files.ca else "that this machine trusts"
    return (
        f"the certificate of {url} is not signed by a CA {trusted} ({error.verify_message}): "
        "set `ca` to the certificate of the CA that signed it"
    )


@cache
def _default() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


def _made(files: TlsFiles) -> ssl.SSLContext:
    context = (
        httpx2.create_ssl_context()
        if files.ca is None
        else ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=_certificates(files.ca))
    )
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    if files.ca is not None:
        context.load_verify_locations(_certificates(files.ca))
    if files.cert is None:
        return
    try:
        # Without a password OpenSSL would ask for one at the terminal, and wait.
        context.load_cert_chain(files.cert, files.key, password="")
    except ssl.SSLError as error:
        raise UserError(
            f"`cert` {files.cert} and `key` {files.key} cannot be used together: "
            f"{error.reason or error}",
            remedy="set them to a certificate in PEM and the private key that belongs to it",
        ) from error


def _certificates(ca: Path) -> Path:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca)
    except ssl.SSLError as error:
        raise UserError(
            f"`ca` {ca} holds no certificate: {error.reason or error}",
            remedy="set it to a file of certificates in PEM",
        ) from error
    return ca


def _stamps(files: TlsFiles) -> dict[str, tuple[int, int, int]]:
    """Changes whenever a file is written or replaced, also behind a symbolic link."""
    stamps = {}
    for name, path in files:
        try:
            found = path.stat()
            path.open("rb").close()
        except OSError as error:
            raise UserError(
                f"`{name}` {path} cannot be read: {error.strerror}",
                remedy=f"set `{name}` to a file that can, or mount it there",
            ) from error
        stamps[name] = (found.st_mtime_ns, found.st_ino, found.st_size)
    return stamps
