"""OpenTelemetry spans, where somebody collects them.

Belongs here: sending them, and joining the trace of a request's header. Does not belong here:
making them, which the SDK does for every request, joined to the trace of its `_meta` or to that.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context
from opentelemetry.propagate import extract

from agent_pipelines.errors import UserError

#: OpenTelemetry's own variables; all others of its are read by its SDK too.
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

#: W3C Trace Context, where a proxy continues a trace.
_TRACE = (b"traceparent", b"tracestate")


@contextmanager
def joined(headers: Mapping[bytes, bytes]) -> Iterator[None]:
    """What is done while this lasts belongs to the trace that these headers continue."""
    trace = {key.decode(): headers[key].decode("latin-1") for key in _TRACE if key in headers}
    token = context.attach(extract(trace))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def exported(service: str) -> Iterator[None]:
    """Spans are sent while this lasts, and the last of them at its end; nowhere by default.

    Raises:
        UserError: a protocol is asked for that is not spoken here.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        yield
        return
    for name in _PROTOCOLS:
        if os.environ.get(name, "http/protobuf") != "http/protobuf":
            raise UserError(
                f"{name} is {os.environ[name]!r}",
                remedy="use http/protobuf, which every collector takes, on port 4318",
            )
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    given = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: service}
    provider = TracerProvider(resource=Resource.create(given))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
