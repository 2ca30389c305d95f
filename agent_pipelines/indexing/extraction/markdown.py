"""Markdown and its front matter.

Belongs here: the YAML block before the text, as documentation generators know it. Does not belong
here: reading Markdown's structure (`chunking/blocks.py`).
"""

import json
import re
from datetime import date
from typing import Any

from agent_pipelines.indexing.extraction.text import Extracted, decode, title_of

_FRONT_MATTER = re.compile(
    r"\A---[ \t]*\r?\n(?P<yaml>.*?)^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE
)

#: Nobody nests front matter deeper; libyaml's loader recurses, and overflows the stack of a thread.
_MAX_DEPTH = 20


def read(data: bytes, charset: str | None) -> Extracted:
    """Markdown; its front matter becomes title and metadata."""
    text = decode(data, charset)
    metadata: dict[str, str] = {}
    if (block := _FRONT_MATTER.match(text)) and (values := _values(block["yaml"])) is not None:
        text = text[block.end() :]
        metadata = {
            str(key): said for key, value in values.items() if (said := _said(value)).strip()
        }
    title = metadata.pop("title", None) or title_of(text, fallback="")
    return Extracted(text, "markdown", title or None, metadata)


def _values(block: str) -> dict[Any, Any] | None:
    """What a block of YAML says; None if it is not a mapping, and so is text between two rules."""
    import yaml

    depth = 0
    try:
        for event in yaml.parse(block, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            # An alias can make a short block say more than fits into memory.
            if depth > _MAX_DEPTH or isinstance(event, yaml.AliasEvent):
                return None
        values = yaml.load(block, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError):  # a date such as 2024-13-45 is a ValueError
        return None
    return values if isinstance(values, dict) else None


def _said(value: Any) -> str:
    """A value as a person would write it in one line: lists by commas, nested values as JSON."""
    plain = _plain(value)
    if isinstance(plain, list) and all(isinstance(item, str) for item in plain):
        return ", ".join(plain)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Strings in lists and dicts, in a stable order; what else YAML knows is written out."""
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case set():
            return sorted(map(str, value))
        case date():  # datetime is one
            return value.isoformat()
        case bool():
            return str(value).lower()
        case None:
            return ""
        case _:
            return str(value)
