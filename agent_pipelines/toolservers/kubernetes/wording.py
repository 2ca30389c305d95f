"""Times and texts of Kubernetes' objects, as answers give them.

Belongs here: reading a timestamp, saying an age, cutting a text. Does not belong here: what they
are about.
"""

from datetime import datetime

#: Characters of one message. Kubernetes caps its own at 1 to 4 KiB; the beginning says it.
_MESSAGE = 1_000


def when(timestamp: str | None) -> datetime | None:
    """The moment of an RFC 3339 timestamp, None where there is none."""
    return datetime.fromisoformat(timestamp) if timestamp else None


def ago(seconds: float) -> str:
    """An age in the unit that suits it."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def short(text: str, most: int = _MESSAGE) -> str:
    """The text, and how much of it was cut off."""
    text = text.strip()
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters)"
