"""Looking at the index again while a batch runs.

Belongs here: how often, and that nobody else waits for it. Does not belong here: what is looked at
(handed in) or what follows from it (`admission.py`, `batch.py`).
"""

import asyncio
import time
from collections.abc import Callable

from agent_pipelines.agents.admission import Admission
from agent_pipelines.errors import UserError

#: Seconds between two looks: as often as a tick looks, so that a batch knows no later than anybody
#: else, at a cost of one tick.
LOOK_EVERY = 30.0


class IndexTurnedFalseError(UserError):
    """The index is not true any more, and the agent's policy is to stop then."""


class Watch:
    """What is known of the index of a running batch."""

    def __init__(self, admission: Admission, look: Callable[[], Admission]) -> None:
        """Start from how the batch was admitted; `look` may block, and runs in a thread."""
        self._admission = admission
        self._look = look
        self._looked = time.monotonic()
        self._turn = asyncio.Lock()

    async def latest(self) -> Admission:
        """What is known now, no older than a look is apart from the next."""
        async with self._turn:
            if time.monotonic() - self._looked >= LOOK_EVERY:
                self._admission = await asyncio.to_thread(self._look)
                self._looked = time.monotonic()
            return self._admission
