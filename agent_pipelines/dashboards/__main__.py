"""`python -m agent_pipelines.dashboards`: the dashboards as files, below `deploy/`.

Belongs here: the files and their folder. Does not belong here: what is in them.
"""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from agent_pipelines.dashboards import agent_batches, gpu_cluster, index_truth, tools

#: The checkout that this program lies in.
ROOT = Path(__file__).parents[2]

#: In the chart's folder: Helm makes ConfigMaps of what is there, and of nothing outside.
FOLDER = "deploy/chart/files/dashboards"

_DASHBOARDS = {
    "index-truth": index_truth.build,
    "agent-batches": agent_batches.build,
    "tools": tools.build,
    "gpu-cluster": gpu_cluster.build,
}


def files() -> dict[str, str]:
    """What is to be in the checkout: text by path, relative to its root."""
    return {
        f"{FOLDER}/{name}.json": json.dumps(build(), cls=JSONEncoder, indent=1) + "\n"
        for name, build in _DASHBOARDS.items()
    }


def write(root: Path = ROOT) -> None:
    """Write them."""
    for path, text in files().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    write()
