"""OpenTelemetry traces: a span per request, with those of its stages below it. No SDK is imported where they are off.

The exporter, the sampler and the resource are chosen by the standard variables `OTEL_*`.
"""

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from calibox_core import __version__
from calibox_core.cli import require_extra
from calibox_core.errors import CaliboxError
from calibox_server.access_log import QUIET
from calibox_server.pipeline import clock
from calibox_server.records import Record, record_of
from calibox_server.service import Service

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

STAGES = ("decode", "queue", "engine")  # one after the other
FLUSH_S = 2.0  # at the end; a collector that does not answer must not hold the server
_FIRST_SERVER_ERROR = 500


class TracingMiddleware:
    """Wraps each request in a span that continues the caller's trace, and names the trace in the request's record.

    Args:
        app: the rest.
        provider: of the OpenTelemetry SDK; shut down with the server.
    """

    def __init__(self, app: ASGIApp, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._app = app
        self._provider = provider
        self._tracer = provider.get_tracer("calibox", __version__)
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self._app(scope, receive, send)
            if scope["type"] == "lifespan":
                await self._finish()
            return
        record = record_of(scope)
        span = self._start(scope, record)
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            span.record_exception(error)
            raise
        finally:
            self._end(span, scope, record)

    def _start(self, scope: Scope, record: Record) -> "Span":
        from opentelemetry.trace import SpanKind, format_trace_id

        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        span = self._tracer.start_span(
            scope["method"],
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=_wall_ns(record.started),
            attributes={
                "http.request.method": scope["method"],
                "url.path": scope["path"],
                "url.scheme": scope["scheme"],
                "calibox.request_id": record.request_id,
            },
        )
        record.trace_id = format_trace_id(span.get_span_context().trace_id)
        return span

    def _end(self, span: "Span", scope: Scope, record: Record) -> None:
        from opentelemetry.trace import StatusCode

        end = time.time_ns()
        if record.stages_ms:
            self._add_stages(span, record, end)
        route = getattr(scope.get("route"), "path", "")
        if route:
            span.update_name(f"{scope['method']} {route}")
            span.set_attribute("http.route", route)
        attributes: dict[str, str | int] = {
            "http.response.status_code": record.status,
            "calibox.code": record.code,
            "calibox.model": record.model,
            "calibox.images": record.images,
            "calibox.batch": record.batch,
            "enduser.id": record.caller,
        }
        span.set_attributes({name: value for name, value in attributes.items() if value})
        if record.status >= _FIRST_SERVER_ERROR:
            span.set_status(StatusCode.ERROR, record.code)
        span.end(end)

    def _add_stages(self, span: "Span", record: Record, end: int) -> None:
        """Spans after the fact, from the times that were taken anyway.

        Of a single image they are when it happened but for the writing of the answer; of many, each stage is the
        slowest image's, one after the other.
        """
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(span)
        times = [round(record.stages_ms.get(stage, 0.0) * 1e6) for stage in STAGES]
        at = end - sum(times)
        for stage, length in zip(STAGES, times, strict=True):
            self._tracer.start_span(stage, context=context, start_time=at).end(at + length)
            at += length

    async def _finish(self) -> None:
        last = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, FLUSH_S)


def add_tracing(app: FastAPI, service: Service) -> None:
    """Adds traces, if the settings ask for them.

    Raises:
        CaliboxError: the extra `otel` is missing, or the variables name an exporter that is not here.
    """
    if service.settings.otel:
        app.add_middleware(TracingMiddleware, provider=make_provider())


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


def _wall_ns(moment: float) -> int:
    """A moment on `clock` as nanoseconds since 1970."""
    return time.time_ns() - round((clock() - moment) * 1e9)
