"""A secret in a file of its own: a key or a token, which somebody may renew.

Belongs here: reading it. Does not belong here: what it opens (`llm_client.py`, `tool_session.py`).
"""

from pathlib import Path

from agent_pipelines.errors import UserError


def secret_in(file: Path, field: str) -> str:
    """What a file holds.

    Args:
        file: which.
        field: of the YAML, that names it.

    Raises:
        UserError: it cannot be read, or is empty.
    """
    try:
        if secret := file.read_text().strip():
            return secret
        reason = "it is empty"
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error)
    raise UserError(
        f"`{field}` {file} cannot be read: {reason}",
        remedy="set it to a file that holds the secret and nothing else",
    )
