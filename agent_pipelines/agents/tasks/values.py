"""Values of typed columns as JSON, which is what a model reads and a batch keeps.

Belongs here: the one rule for every type. Does not belong here: where a value comes from.
"""

import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID


def as_json(value: Any) -> Any:
    """The value as JSON: numbers, truth values and text stay, dates are ISO 8601, a decimal is its
    digits as text (a float would change them), NaN, which stands for nothing, is null.

    Raises:
        ValueError: it has no form in JSON, such as bytes.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if math.isinf(value):
                raise ValueError(f"{value} is not JSON; cast it to text")
            return None if math.isnan(value) else value
        case Decimal() | UUID() | timedelta():
            return str(value)
        case date() | time():
            return value.isoformat()
        case Mapping():
            return {str(name): as_json(each) for name, each in value.items()}
        case list() | tuple():
            return [as_json(each) for each in value]
    raise ValueError(f"a value of type {type(value).__name__} is not JSON; cast it to text")
