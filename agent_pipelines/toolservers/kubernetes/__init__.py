"""The kubernetes tool server: what an agent may read of a cluster; it can change nothing.

Belongs here: how pods and workloads are read and what is unhealthy about them. Does not belong
here: how the tools are served (`shell`), or the rights it runs with (deploy/rbac).
"""

from agent_pipelines.toolservers.kubernetes.server import TOOL_SERVER

__all__ = ["TOOL_SERVER"]
