"""The ASGI applications: the MCP endpoint behind its gate, and the probes.

Belongs here: putting them together. Does not belong here: sockets, TLS and signals (`serving.py`).
"""

from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.routing import Route

from agent_pipelines.toolservers.server import AnyServer, Readiness
from agent_pipelines.toolservers.shell.calls import Calls
from agent_pipelines.toolservers.shell.gate import Gate
from agent_pipelines.toolservers.shell.metrics import Metrics
from agent_pipelines.toolservers.shell.options import Options
from agent_pipelines.toolservers.shell.probes import probe_routes

_PATH = "/mcp"


def build_app(
    server: AnyServer,
    *,
    ready: Readiness,
    options: Options | None = None,
    metrics: Metrics | None = None,
) -> tuple[Starlette, Starlette]:
    """The application that serves `/mcp` and the probes, and one that serves the probes alone.

    With TLS the first serves `/mcp` alone.

    Raises:
        UserError: the token file cannot be used.
    """
    options, metrics = options or Options(), metrics or Metrics()
    server.middleware.append(Calls(server, metrics, timeout=options.call_timeout_seconds))
    app = server.streamable_http_app(
        streamable_http_path=_PATH,
        json_response=True,
        # Any replica answers any call.
        stateless_http=True,
        # Both are the gate's.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_request_body_size=options.max_request_bytes,
    )
    manager = server.session_manager
    gate = Gate(manager.handle_request, options, metrics, stateless=manager.stateless)
    probes = probe_routes(metrics.registry, ready)
    others = [route for route in app.routes if getattr(route, "path", None) != _PATH]
    app.router.routes[:] = [Route(_PATH, gate), *others, *([] if options.tls else probes)]
    return app, Starlette(routes=probes)
