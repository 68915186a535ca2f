"""OpenTelemetry traces as a collector receives them, and that nothing of them is there when they are off."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from calibox_core.errors import CaliboxError
from calibox_server.tracing import make_provider
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

RAW = {"Content-Type": "image/jpeg"}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    make_tiny_bundle(tmp_path)
    return tmp_path


@contextmanager
def collector() -> Iterator[tuple[str, list[ResourceSpans]]]:
    """A collector on a free port: its address, and what it received."""
    received: list[ResourceSpans] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.extend(ExportTraceServiceRequest.FromString(body).resource_spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()


def attributes(span: Span) -> dict[str, str | int]:
    values = {a.key: a.value for a in span.attributes}
    return {key: v.string_value or v.int_value for key, v in values.items()}


def test_a_request_is_a_span_of_the_callers_trace_with_its_stages_below(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as (address, received):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        with live_server(models, otel=True) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
            headers = {**RAW, "traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "r-1"}
            assert client.post("/v1/detect", content=encoded(picture(), "JPEG"), headers=headers).status_code == 200
            refused = client.post("/v1/detect")
            client.get("/livez")
    (resource, *_) = received
    assert ("service.name", "calibox") in [(a.key, a.value.string_value) for a in resource.resource.attributes]
    spans = [span for part in received for scope in part.scope_spans for span in scope.spans]
    ours = {span.name: span for span in spans if span.trace_id.hex() == TRACE}
    request = ours["POST /v1/detect"]
    assert request.parent_span_id.hex() == PARENT
    wanted = {
        "http.request.method": "POST", "http.route": "/v1/detect", "http.response.status_code": 200,
        "calibox.code": "ok", "calibox.request_id": "r-1", "calibox.model": "tiny/1", "calibox.batch": 1,
    }  # fmt: skip
    assert wanted.items() <= attributes(request).items()
    stages = [ours[name] for name in ("decode", "queue", "engine")]
    assert len(ours) == 4
    assert {stage.parent_span_id for stage in stages} == {request.span_id}
    moments = [request.start_time_unix_nano, stages[0].start_time_unix_nano, *(s.end_time_unix_nano for s in stages)]
    assert moments == sorted(moments)
    assert moments[-1] <= request.end_time_unix_nano
    # The other request had no trace: it began one, and its problem document names it. Health is not traced.
    (other,) = [span for span in spans if span.trace_id.hex() != TRACE]
    assert other.trace_id.hex() == refused.json()["trace_id"]
    assert attributes(other)["calibox.code"] == "malformed"


def test_a_collector_that_is_away_holds_nobody(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # the port of RFC 863: nobody listens
    with live_server(models, otel=True) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        answer = client.post("/v1/detect", content=encoded(picture(), "JPEG"), headers=RAW)
        assert answer.status_code == 200


def test_an_exporter_that_is_not_here_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(CaliboxError, match=r"OTEL_TRACES_EXPORTER=zipkin .* here are otlp over http/protobuf, console"):
        make_provider()


def test_no_sdk_and_no_exporter_is_imported_when_traces_are_off() -> None:
    code = (  # the web framework imports the API of OpenTelemetry by itself
        "import sys, calibox_server.app, calibox_server.serve, calibox_server.tracing\n"
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter')\n"
        "sys.exit(any(name.startswith(heavy) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
