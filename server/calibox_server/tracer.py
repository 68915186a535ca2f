"""A request or a frame as a span of OpenTelemetry, whichever protocol brought it. No SDK is imported before that."""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from calibox_core import __version__
from calibox_server.engine_runner import clock
from calibox_server.records import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Attributes = Mapping[str, str | int]

STAGES = ("fetch", "decode", "queue", "engine")  # one after the other
FLUSH_S = 2.0  # at the end; a collector that does not answer must not hold the server
_FIRST_SERVER_ERROR = 500


class Tracer:
    """Makes spans.

    Args:
        provider: of the OpenTelemetry SDK; shut down by `finish`.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("calibox", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(
        self, name: str, headers: Iterable[tuple[bytes, bytes]], record: Record, attributes: Attributes
    ) -> Iterator["Span"]:
        """A span around a block, which continues the caller's trace and is named in the record.

        Args:
            name: of the span.
            headers: of the request, names in lower case; of gRPC, the metadata.
            record: of the request; what it holds at the end is told of the span.
            attributes: further ones.
        """
        from opentelemetry.trace import SpanKind, format_trace_id

        carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers}
        span = self._tracer.start_span(
            name,
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=_wall_ns(record.started),
            attributes={**attributes, "calibox.request_id": record.request_id},
        )
        record.trace_id = format_trace_id(span.get_span_context().trace_id)
        try:
            yield span
        except BaseException as error:
            span.record_exception(error)
            raise
        finally:
            self._end(span, record)

    async def finish(self) -> None:
        """Sends what was not sent yet."""
        last = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, FLUSH_S)

    def _end(self, span: "Span", record: Record) -> None:
        from opentelemetry.trace import StatusCode

        end = time.time_ns()
        self._add_stages(span, record, end)
        attributes: dict[str, str | int] = {
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
        times = {stage: round(record.stages_ms[stage] * 1e6) for stage in STAGES if stage in record.stages_ms}
        at = end - sum(times.values())
        for stage, length in times.items():
            self._tracer.start_span(stage, context=context, start_time=at).end(at + length)
            at += length


def traced(
    tracer: Tracer | None, name: str, headers: Iterable[tuple[bytes, bytes]], record: Record, attributes: Attributes
) -> "AbstractContextManager[Span | None]":
    """`Tracer.span`, or nothing where traces are off."""
    return nullcontext() if tracer is None else tracer.span(name, headers, record, attributes)


def _wall_ns(moment: float) -> int:
    """A moment on `clock` as nanoseconds since 1970."""
    return time.time_ns() - round((clock() - moment) * 1e9)
