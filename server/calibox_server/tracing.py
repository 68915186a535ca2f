"""OpenTelemetry traces: which SDK and exporter, and a span per HTTP request. No SDK is imported where they are off.

The exporter, the sampler and the resource are chosen by the standard variables `OTEL_*`.
"""

import os
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from calibox_core.cli import require_extra
from calibox_core.errors import CaliboxError
from calibox_server.access_log import QUIET
from calibox_server.options import Options
from calibox_server.records import record_of
from calibox_server.service import Service
from calibox_server.tracer import Tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter


class TracingMiddleware:
    """Wraps each HTTP request in a span.

    Args:
        app: the rest.
        tracer: finished with the server.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self._app(scope, receive, send)
            if scope["type"] == "lifespan":
                await self._tracer.finish()
            return
        record, method = record_of(scope), scope["method"]
        attributes = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
        }
        with self._tracer.span(method, scope["headers"], record, attributes) as span:
            try:
                await self._app(scope, receive, send)
            finally:
                if route := getattr(scope.get("route"), "path", ""):
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
                if record.status:
                    span.set_attribute("http.response.status_code", record.status)


def add_tracing(app: FastAPI, service: Service) -> Tracer | None:
    """Adds traces, if the settings ask for them; the tracer is returned for what is not HTTP.

    Raises:
        CaliboxError: the extra `otel` is missing, or the variables name an exporter that is not here.
    """
    tracer = make_tracer(service.settings)
    if tracer is not None:
        app.add_middleware(TracingMiddleware, tracer=tracer)
    return tracer


def make_tracer(settings: Options) -> Tracer | None:
    """The tracer that the settings ask for.

    Raises:
        CaliboxError: as `add_tracing` says.
    """
    return Tracer(make_provider()) if settings.otel else None


def make_provider() -> "TracerProvider":
    """The SDK as the variables `OTEL_*` set it up; the service is called calibox unless they name it.

    Raises:
        CaliboxError: as `add_tracing` says.
    """
    require_extra("serve --otel", "otel", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {"service.name": "calibox"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = _exporter()
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter() -> "SpanExporter | None":
    asked = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if asked == "none":
        return None
    if asked == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if asked != "otlp" or protocol not in (None, "", "http/protobuf"):
        raise CaliboxError(
            f"traces cannot be sent to OTEL_TRACES_EXPORTER={asked} with OTEL_EXPORTER_OTLP_PROTOCOL={protocol or ''}; "
            "here are otlp over http/protobuf, console and none"
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
