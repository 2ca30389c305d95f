"""One task that is being answered, and what those who wait for it hear.

Belongs here: its events, in order, for whoever listens, however late they come. Does not belong
here: what happens in it (`conversations.py`), or how it is sent (`telling.py`).
"""

import asyncio
from dataclasses import dataclass, field

from agent_pipelines.agents.tasks import Task
from agent_pipelines.api.agents import ServedAgent
from agent_pipelines.api.events import Event
from agent_pipelines.api.problems import Problem


@dataclass(eq=False)
class Conversation:
    """One task that is being answered."""

    agent: ServedAgent
    tenant: str
    task: Task
    new: bool
    work: asyncio.Task[None] = field(init=False)
    events: list[Event] = field(default_factory=list)
    problem: Problem | None = None
    """Why it ended without an answer."""
    listeners: int = 0
    begun: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.agent.name, self.tenant, self.task.task_id

    async def event(self, number: int) -> Event | None:
        """The event of this number, from 0, once it has happened; None after the last one.

        Raises:
            Problem: there is none, because there is no answer.
        """
        while number >= len(self.events):
            if self.work.done():
                if self.problem is not None:
                    raise self.problem
                return None
            await self._news.wait()
        return self.events[number]

    def tell(self, event: Event) -> None:
        """Let everybody who listens know."""
        self.events.append(event)
        self.wake()

    def wake(self) -> None:
        """Let everybody who listens look again."""
        news, self._news = self._news, asyncio.Event()
        news.set()
