"""Where files are: paths, and any fsspec URL.

Belongs here: what a person may write, and how it is shown. Does not belong here: reading files.
"""

import re
from pathlib import Path

from fsspec import get_filesystem_class

from agent_pipelines.errors import UserError

#: The user and password of a URL.
_CREDENTIALS = re.compile(r"(?<=://)[^/@]*@")


def located(url: str, folder: Path) -> str:
    """The URL of what may be a path, or an archive at a path; a relative one is below `folder`."""
    archive, chain, place = url.rpartition("::")
    if "://" not in place:
        place = str((folder / Path(place).expanduser()).resolve())
    return archive + chain + place


def public(url: str) -> str:
    """The URL without what nobody else is to see: a password, or a signature in its query."""
    bits = url.split("::")
    return "::".join(anonymous(bit).partition("?")[0] if "://" in bit else bit for bit in bits)


def anonymous(url: str) -> str:
    """The URL without a user and password."""
    return _CREDENTIALS.sub("", url)


def check_protocols(url: str, field: str) -> None:
    """See that what each protocol of a URL needs is installed; nothing is opened.

    Raises:
        UserError: it is not; ``field`` is what the URL is called in YAML.
    """
    for protocol in re.findall(r"(?:^|::)([^:]*)://", url):
        try:
            get_filesystem_class(protocol)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"{field} {public(url)!r} cannot be opened: {error}",
                remedy="use a path or an fsspec URL, and install the package it names",
            ) from error


def said(error: BaseException, url: str) -> str:
    """The words of an error that may hold the URL, without what nobody else is to see."""
    words = str(error)
    for bit in url.split("::"):
        words = words.replace(bit, public(bit))
    return words
