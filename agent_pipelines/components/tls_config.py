"""What any server's YAML may say of TLS.

Belongs here: the files, and what is wrong with them before anything runs. Does not belong here:
reading them (`resources/tool_tls.py`).
"""

from typing import Self

from pydantic import BaseModel, Field, model_validator


class TlsConfig(BaseModel):
    """Whom we trust, and who we are."""

    ca: str | None = Field(
        default=None,
        description="PEM file of the CA that signed its certificate; default: those that this "
        "machine trusts. Relative paths start at this YAML's folder. Renewed files are noticed.",
    )
    cert: str | None = Field(default=None, description="PEM file of the certificate we show it.")
    key: str | None = Field(default=None, description="PEM file of the key that belongs to `cert`.")

    @model_validator(mode="after")
    def _certificate_and_key_are_a_pair(self) -> Self:
        if (self.cert is None) != (self.key is None):
            there, missing = ("cert", "key") if self.key is None else ("key", "cert")
            raise ValueError(f"{there} is set and {missing} is not; set both, or neither")
        return self

    def refuse_without_tls(self, url: str) -> None:
        """See that files for TLS are used.

        Raises:
            ValueError: there are some, and ``url`` is not https.
        """
        named = [name for name in ("ca", "cert") if getattr(self, name) is not None]
        if named and not url.startswith("https:"):
            raise ValueError(
                f"{named[0]} is set and url {url!r} is not https; write https:// there, or leave "
                f"{named[0]} out"
            )
