"""The code location: everything in `assets/`, bound to the resources.

Belongs here: `build_defs`, the one seam that tests need, and `defs`, which Dagster loads. Does not
belong here: any asset, or any address.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from agent_pipelines.components import retention, waiting_runs
from agent_pipelines.components.llm import llm_key
from agent_pipelines.components.tool_server import resource_key
from agent_pipelines.loading import PACKAGED_ASSETS, Loaded, load_assets
from agent_pipelines.settings import Settings


def build_defs(
    *, assets: Path | None = None, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """Definitions of a folder of assets, with its resources.

    Args:
        assets: the folder; default: AGENT_PIPELINES_ASSETS, else the packaged one.
        resource_overrides: resources by name, instead of those of `resources/`.
    """
    folder = assets or Settings().agent_pipelines_assets or PACKAGED_ASSETS
    return definitions_of(load_assets(folder.expanduser()), resource_overrides)


def definitions_of(
    loaded: Loaded, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """Everything that Dagster loads where this is the folder of assets."""
    bound = dg.Definitions(
        resources={
            **_resources(),
            **{resource_key(name): found.resource for name, found in loaded.tool_servers.items()},
            **{llm_key(name): found.resource for name, found in loaded.llms.items()},
            **(resource_overrides or {}),
        },
        # One process per run: steps share the loaded embedder. In a cluster a run is a pod.
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(loaded.definitions, retention.build(), waiting_runs.build(), bound)


def _resources() -> dict[str, Any]:
    from resources.embedder import EmbedderResource
    from resources.llm import LlmResource
    from resources.state import StateResource
    from resources.tools import ToolServerResource
    from resources.weaviate import WeaviateResource

    return {
        "weaviate": WeaviateResource(),
        "embedder": EmbedderResource(),
        "state": StateResource(),
        "llm": LlmResource(),
        "tools": ToolServerResource(),
    }


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads."""
    return build_defs()
