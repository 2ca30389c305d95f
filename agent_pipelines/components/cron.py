"""What a cron expression comes to.

Belongs here: the times between its ticks. Does not belong here: which expressions there are
(`index_config.py`) or what runs by them.
"""

from datetime import timedelta
from functools import cache
from itertools import islice, pairwise

from dagster._utils.schedules import schedule_execution_time_iterator

#: As many ticks tell the longest time between two: those of a year, or fewer.
_TICKS = 400


@cache
def longest_gap(expression: str) -> timedelta:
    """The longest time between two ticks, in UTC."""
    ticks = schedule_execution_time_iterator(0.0, expression, "UTC")
    return max(after - before for before, after in pairwise(islice(ticks, _TICKS)))
