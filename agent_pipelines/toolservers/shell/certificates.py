"""The server's certificate, and the newest one for every new connection.

Belongs here: reading the files again when they have changed, and what is served while they cannot
be read. Does not belong here: who may call (`callers.py`).
"""

import logging
import ssl
from pathlib import Path
from typing import Any

from cryptography import x509
from prometheus_client import CollectorRegistry, Counter, Gauge

from agent_pipelines.errors import UserError
from agent_pipelines.toolservers.shell.options import TLS

_log = logging.getLogger(__name__)

#: What tells one state of a file from another; Kubernetes' symlink swaps change the inode.
_Stamp = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """Looks at the files at each handshake and each scrape: no thread, no interval to wait for.

    ``prefix`` is that of the variables that name them.

    Raises:
        UserError: the files cannot be used. Later on, the last ones that could stay in use.
    """

    def __init__(self, files: TLS, registry: CollectorRegistry, *, prefix: str) -> None:
        self._files = files
        self._connection = _counted(
            Counter(
                "mcp_tls_handshake_failures",
                "TLS handshakes that either side refused.",
                registry=registry,
            )
        )
        self._seen = self._stamp()
        try:
            self._context, self._expires = self._load()
        except (OSError, ValueError) as error:
            raise UserError(
                f"TLS cannot be served with {self._named()}: {error}",
                remedy=f"set {prefix}TLS_CERT, {prefix}TLS_KEY and {prefix}TLS_CLIENT_CA to PEM "
                "files, the key being the certificate's",
            ) from error
        self._stale = False
        #: Serves whoever connects. What it holds itself is never used.
        self.context = self._new_context()
        self.context.sni_callback = self._choose
        Gauge(
            "mcp_tls_certificate_expiry_timestamp_seconds",
            "When the certificate that is served expires, in Unix time.",
            registry=registry,
        ).set_function(self._expiry)
        Gauge(
            "mcp_tls_certificate_stale",
            "1 while the TLS files have changed and cannot be used, so that older ones are served.",
            registry=registry,
        ).set_function(self._staleness)

    def _choose(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        # Called for clients that name no server as well.
        self._refresh()
        connection.context = self._context

    def _expiry(self) -> float:
        self._refresh()
        return self._expires

    def _staleness(self) -> float:
        self._refresh()
        return float(self._stale)

    def _refresh(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        # Taken before reading: what changes while it is read is read again.
        self._seen = stamp
        try:
            self._context, self._expires = self._load()
        except (OSError, ValueError) as error:
            self._stale = True
            _log.error(
                "the TLS files have changed and cannot be used, the older ones stay: %s: %s",
                self._named(),
                error,
            )
        else:
            self._stale = False
            _log.info("the TLS files have changed and are in use")

    def _load(self) -> tuple[ssl.SSLContext, float]:
        context = self._new_context()
        # Without a password an encrypted key would be asked for on the terminal.
        context.load_cert_chain(self._files.cert, self._files.key, password="")
        if self._files.client_ca:
            context.load_verify_locations(self._files.client_ca)
        certificate = x509.load_pem_x509_certificate(self._files.cert.read_bytes())
        return context, certificate.not_valid_after_utc.timestamp()

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class = self._connection
        # With no earlier version and no tickets no session is resumed: whoever connects is
        # asked for a certificate each time, and it is held against the newest CA.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        if self._files.client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _paths(self) -> tuple[Path, ...]:
        files = self._files
        return (files.cert, files.key, *([files.client_ca] if files.client_ca else []))

    def _stamp(self) -> _Stamp:
        return tuple(_stamp(path) for path in self._paths())

    def _named(self) -> str:
        return ", ".join(str(path) for path in self._paths())


def _counted(failures: Counter) -> type[ssl.SSLObject]:
    """What asyncio shakes hands with; nobody else is told that it came to nothing."""

    class Connection(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise  # it goes on when more has arrived
            except ssl.SSLError as error:
                failures.inc()
                _log.warning("a TLS handshake failed: %s", error.reason)
                raise

    return Connection


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def subject(certificate: dict[str, Any]) -> str | None:
    """Whom a client certificate names, as `ssl.SSLSocket.getpeercert` gives it.

    A SPIFFE id or another URI, else its common name, else its first DNS name.
    """
    names = certificate.get("subjectAltName", ())
    common = [
        value
        for part in certificate.get("subject", ())
        for key, value in part
        if key == "commonName"
    ]
    found = [
        *(value for kind, value in names if kind == "URI"),
        *common,
        *(value for kind, value in names if kind == "DNS"),
    ]
    return str(found[0]) if found else None
