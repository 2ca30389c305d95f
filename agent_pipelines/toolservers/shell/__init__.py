"""What every tool server shares: everything around a tool call.

Belongs here: the MCP endpoint, who may call it, its limits, TLS, health, readiness, metrics,
traces, logs and a clean end. Does not belong here: any tool, or what makes its server ready; those
are handed in.
"""

from agent_pipelines.toolservers.server import Readiness
from agent_pipelines.toolservers.shell.app import build_app
from agent_pipelines.toolservers.shell.options import LOOPBACK, TLS, Options
from agent_pipelines.toolservers.shell.serving import serve

__all__ = ["LOOPBACK", "TLS", "Options", "Readiness", "build_app", "serve"]
