"""Certificates of a test's own authority, as files.

Belongs here: issuing them, and the context of a client that holds one. Does not belong here: who
accepts them.
"""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


class Authority:
    """A CA in a folder of its own, and the files of what it has signed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._ca = trustme.CA()
        self.pem = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.pem))

    def issue(
        self, name: str, *hosts: str, caller: str | None = None, days: float = 1.0
    ) -> tuple[Path, Path]:
        """Certificate and key. Less than no ``days``: it has expired."""
        now = datetime.now(UTC)
        leaf = self._ca.issue_cert(
            *hosts,
            common_name=caller,
            not_before=now - timedelta(days=10),
            not_after=now + timedelta(days=days),
        )
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        return cert, key

    def client(self, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """Of a client that trusts this authority, and shows ``pair``."""
        context = ssl.create_default_context(cafile=str(self.pem))
        if pair:
            context.load_cert_chain(*pair)
        return context
