"""Globs that say which of a source's documents to index.

Belongs here: what a glob matches. Does not belong here: what it is matched with.
"""

import re
from collections.abc import Callable, Sequence

from fsspec.utils import glob_translate

from agent_pipelines.errors import UserError


def matcher(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    """Whether a path or URL is matched by one of `include` and none of `exclude`.

    `*` stays within a folder, `**` crosses folders; README.MD is matched as README.md is.

    Raises:
        UserError: one of them is no glob.
    """
    included, excluded = _regex("include", include), _regex("exclude", exclude)
    return lambda path: bool(included.match(path)) and not excluded.match(path)


def _regex(field: str, globs: Sequence[str]) -> re.Pattern[str]:
    patterns = []
    for glob in globs:
        try:
            patterns.append(f"(?:{glob_translate(glob)})")
        except ValueError as error:
            raise UserError(
                f"source.{field} {glob!r} is no glob: {error}",
                remedy="write it like **/*.md, where ** stands between slashes",
            ) from error
    # `(?!)` matches nothing: no globs, no documents.
    return re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)
