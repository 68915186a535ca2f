"""OpenTelemetry traces as a collector receives them, and that nothing of them is there when they are off."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import numpy as np
import pytest
import tritonclient.grpc as triton
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from tritonclient.utils import InferenceServerException
from websockets.sync.client import connect

from calibox_core.errors import CaliboxError
from calibox_server.service import Service
from calibox_server.settings import Settings
from calibox_server.tracing import make_provider
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import grpc_address, live_server, running
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


def spans_of(received: list[ResourceSpans]) -> list[Span]:
    return [span for part in received for scope in part.scope_spans for span in scope.spans]


def test_each_frame_of_a_stream_is_a_span(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (address, received):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        with live_server(models, otel=True) as url:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            with connect(url.replace("http", "ws") + "/v1/stream", additional_headers=headers) as stream:
                for data in (encoded(picture(), "JPEG"), b"no picture"):
                    stream.send(data)
                    answer = json.loads(stream.recv(PATIENCE_S))
    assert answer["error"]["trace_id"] == TRACE
    spans = spans_of(received)
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    frames = [span for span in spans if span.name == "frame /v1/stream"]
    assert [attributes(span).get("calibox.code") for span in frames] == ["ok", "unsupported_media_type"]
    assert [attributes(span).get("calibox.frame") for span in frames] == [0, 1]
    assert {span.parent_span_id.hex() for span in frames} == {PARENT}
    stages = [span for span in spans if span not in frames]
    assert [span.name for span in stages] == ["decode", "queue", "engine"]
    assert {span.parent_span_id for span in stages} == {frames[0].span_id}


def test_each_call_over_grpc_is_a_span(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service_name = "inference.GRPCInferenceService"
    with collector() as (address, received):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        service = Service.load(Settings(models=models, otel=True, grpc_port=0, log_level="warning"))
        with running(service) as server, triton.InferenceServerClient(grpc_address(server)) as client:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            assert client.is_server_live(headers=headers)  # a probe is not traced
            shape = client.get_model_metadata("tiny", headers=headers).inputs[0].shape
            images = triton.InferInput("images", [1, *shape[1:]], "UINT8")
            images.set_data_from_numpy(np.zeros((1, *shape[1:]), np.uint8))
            client.infer("tiny", [images], headers=headers)
            with pytest.raises(InferenceServerException):
                client.get_model_metadata("nothing", headers=headers)
    spans = spans_of(received)
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    calls = [span for span in spans if span.name.startswith(service_name)]
    assert [span.name.partition("/")[2] for span in calls] == ["ModelMetadata", "ModelInfer", "ModelMetadata"]
    assert [attributes(span).get("rpc.grpc.status_code", 0) for span in calls] == [0, 0, 5]  # 5: not found
    assert attributes(calls[1])["calibox.model"] == "tiny/1"
    below = {span.name for span in spans if span.parent_span_id == calls[1].span_id}
    assert below == {"decode", "queue", "engine"}


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
