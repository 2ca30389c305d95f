"""`{{ env.NAME }}` in YAML: what is secret has no place in a file.

Belongs here: putting the value of an environment variable in the place of its name. Does not belong
here: which fields may hold one.
"""

import os
import re
from typing import Any

_VARIABLE = re.compile(r"\{\{\s*env\.(\w+)\s*\}\}")


def filled(value: Any) -> Any:
    """The value with every `{{ env.NAME }}` in it replaced.

    Raises:
        ValueError: a variable is not set.
    """
    if isinstance(value, dict):
        return {key: filled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each) for each in value]
    return _VARIABLE.sub(_variable, value) if isinstance(value, str) else value


def _variable(found: re.Match[str]) -> str:
    if (name := found[1]) not in os.environ:
        raise ValueError(f"the environment variable {name} is not set")
    return os.environ[name]
