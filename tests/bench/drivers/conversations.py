"""What every harness is given: the same tool, the same instructions, so many conversations.

Belongs here: the conversation, and how many are held at once. Does not belong here: any harness.
Standard library only: it runs in every contender's environment.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

INSTRUCTIONS = "Answer from what the tools say. Reply with a JSON object that has the key answer."

#: What each conversation must end with; it is what the model server says after two tool calls.
ANSWER = {"answer": "Restart the pod, then look at its events."}

PASSAGE = "Restart the pod. Look at its events. " * 10

Converse = Callable[[str], Awaitable[Any]]


def look_up(topic: str) -> str:
    """Look a topic up in the runbooks."""
    return f"{topic}: {PASSAGE}"


class Loop:
    """One event loop for all requests of the bench, as in a process that goes on running."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def hold(self, converse: Converse, count: int, at_once: int) -> dict[str, Any]:
        """Hold `count` conversations; how many ended with the right answer."""

        async def work(numbers: Any) -> int:
            right = 0
            for number in numbers:
                right += await converse(f"What to do about incident {number}?") == ANSWER
            return right

        async def all_of_them() -> int:
            numbers = iter(range(count))
            return sum(await asyncio.gather(*(work(numbers) for _ in range(at_once))))

        return {"right": self._runner.run(all_of_them())}

    def run(self, opening: Awaitable[Any]) -> Any:
        """Await something on the same loop."""

        async def awaited() -> Any:
            return await opening

        return self._runner.run(awaited())
