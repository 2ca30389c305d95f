"""OpenAI Batch input, where a file is to be read as such whatever its first line looks like.

Belongs here: the kind. Does not belong here: what a request becomes (`openai_request.py`) or
reading lines (`jsonl.py`).
"""

from pathlib import Path
from typing import Literal

from agent_pipelines.agents.tasks import TaskSource
from agent_pipelines.agents.tasks.files import FileConfig
from agent_pipelines.agents.tasks.jsonl import JsonLinesSource


class OpenAIBatch(FileConfig):
    """OpenAI Batch requests, one per line: `{"custom_id", "method", "url", "body"}`.

    `custom_id` is the task's id. The last message, which must be the user's, is its `question`;
    those before it are its `conversation`, so that nothing is left out. The agent's own YAML
    decides model, sampling and limits, so those of a request are ignored; one that brings tools, a
    response format or anything else that would make other answers of it is refused.
    """

    kind: Literal["openai_batch"]

    def open(self, folder: Path) -> TaskSource:
        """The source; a relative path is below `folder`."""
        return JsonLinesSource(self, folder, requests=True)
