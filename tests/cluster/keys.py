"""Certificates and kubeconfigs of one cluster, valid for as long as the tests take.

Belongs here: who is who to the API server. Does not belong here: what they may do (RBAC).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme
import yaml


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


class Keys:
    """One certificate authority and what it issues, in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._authority = trustme.CA(organization_name="cluster of the tests")
        self.authority = folder / "ca.crt"
        self._authority.cert_pem.write_to_path(str(self.authority))
        #: Signs service accounts' tokens; the API server takes the same file to verify them.
        self.service_accounts = self.issue("service-accounts").key

    def issue(self, user: str, *, group: str | None = None, addresses: Sequence[str] = ()) -> Pair:
        """A certificate; to the API server its common name is a user, its organisation a group."""
        name = user.replace(":", "-")
        issued = self._authority.issue_cert(
            # Without one, trustme writes an empty list of names, which Go refuses.
            *(addresses or ["client.invalid"]),
            common_name=user,
            organization_name=group or "nobody",
        )
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.key.touch(mode=0o600)
        issued.private_key_pem.write_to_path(str(pair.key))
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return pair

    def kubeconfig(self, path: Path, server: str, user: Pair | str) -> Path:
        """A kubeconfig for whoever has this certificate or bearer token."""
        access = (
            {"token": user}
            if isinstance(user, str)
            else {"client-certificate": str(user.certificate), "client-key": str(user.key)}
        )
        cluster = {"server": server, "certificate-authority": str(self.authority)}
        path.touch(mode=0o600)
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "tests", "cluster": cluster}],
                    "users": [{"name": "user", "user": access}],
                    "contexts": [
                        {"name": "tests", "context": {"cluster": "tests", "user": "user"}}
                    ],
                    "current-context": "tests",
                }
            )
        )
        return path
