"""Requests that their connection answers: nobody can tell them from those that the application answers."""

import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from calibox_server import encoded as encoded_work
from calibox_server import engine_line, pipeline
from calibox_server.app import build_app
from calibox_server.exchange import Exchange
from calibox_server.keys import make_key
from calibox_server.service import Service
from calibox_server.settings import Settings
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S
from tests.support.gated_server import Gated, gated, metric, wait_until
from tests.support.live_server import running, server_url
from tests.support.pictures import encoded, picture

JPEG = encoded(picture(width=200, height=120), "JPEG", quality=95)
PNG = encoded(picture(width=90, height=150, seed=1), "PNG")
MOST = 60_000  # bytes of a body
KEY, KEY_LINE = make_key("somebody")


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        yield connection


class Reader(io.BufferedReader):
    """What comes on a connection; the first of several answers that are read from it leaves the others."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(socket.SocketIO(connection, "r"))

    def makefile(self, mode: str) -> "Reader":
        """As `HTTPResponse` asks a socket for it."""
        return self

    def close(self) -> None:
        """Is for the end of one answer."""


def read(connection: "socket.socket | Reader") -> tuple[http.client.HTTPResponse, Any]:
    answer = http.client.HTTPResponse(connection)  # type: ignore[arg-type]
    answer.begin()
    return answer, json.loads(answer.read() or "{}")


def head_of(body: bytes, *more: bytes) -> bytes:
    lines = [b"POST /v1/detect HTTP/1.1", b"Host: x", b"Content-Type: image/jpeg", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, *more, b"", b""])


@dataclass
class Way:
    """A server, and what it counted."""

    url: str
    answered: list[str] = field(default_factory=list)  # codes

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def counts(self) -> dict[Any, float]:
        text = httpx2.get(f"{self.url}/metrics", headers={"X-API-Key": KEY}, timeout=PATIENCE_S).text
        wanted = {"calibox_requests_total", "calibox_http_responses_total", "calibox_images_total"}
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return {(s.name, *sorted(s.labels.items())): s.value for s in samples if s.name in wanted}


@pytest.fixture(scope="module", params=[True, False], ids=["called", "in a task"], autouse=True)
def called(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Where a run of the engine for each core goes on, a request waits for nothing else and needs no task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_line, "runs_on_cpu", lambda _: request.param)
        patch.setattr(engine_line, "available_cores", lambda: 1)
        yield request.param


@pytest.fixture(scope="module")
def ways(models: Path, called: bool) -> Iterator[tuple[Way, Way]]:
    """The same service twice: with exchanges and without."""
    wanted = Settings(models=models, log_level="warning", max_bytes=MOST, api_keys=KEY_LINE)
    with ExitStack() as stack:
        servers = [stack.enter_context(running(Service.load(wanted), exchanges=e)) for e in (True, False)]
        yield Way(server_url(servers[0])), Way(server_url(servers[1]))


def told(way: Way, asked: "Asked") -> dict[str, Any]:
    """What somebody sees of the answer who has no clock."""
    with connected(way.port) as connection:
        connection.sendall(asked.sent())
        answer, document = read(connection)
    timing, request_id = document.pop("timing", {}), document.pop("request_id", None)
    shown_id = answer.getheader("X-Request-Id", "")
    assert request_id in (None, shown_id)
    return {
        "status": (answer.status, answer.reason),
        "document": document,
        "names": sorted(name.lower() for name, _ in answer.getheaders()),
        "values": [answer.getheader(name) for name in ("Content-Type", "Connection", "Retry-After")],
        "stages": [part.partition(";")[0] for part in answer.getheader("Server-Timing", "").split(", ")],
        "timing": sorted(timing),
        "id": shown_id == "mine" or len(shown_id),
    }


BODIES = {
    "JPEG": JPEG,
    "PNG": PNG,
    "half": JPEG[: len(JPEG) // 2],
    "no image": b"no image",
    "empty": b"",
    "long": bytes(MOST + 1),
}
targets = st.sampled_from(
    ["/v1/detect"] * 6
    + [
        "/v1/detect?", "/v1/detect?score_threshold=0.2", "/v1/detect?score_threshold=2", "/v1/detect?priority=high",
        "/v1/detect?nothing=1", "/v1/detect?model=tiny&version=1", "/v1/detect?model=other", "/v1/detect#x",
        "/v1/detect?score_threshold=0.15#x", "/v1/detect?fusion=power&alpha=0.5", "/v1/detect?classes=%2C+",
        "/v1/detect?tile=64&overlap=0.5", "/v1/detect/", "//v1/detect", "/v1/%64etect", "http://x/v1/detect",
    ]
)  # fmt: skip
kinds = st.sampled_from(
    ["image/jpeg", "image/png", "IMAGE/X; q=1", "application/octet-stream", "", "text/plain", "application/json"]
)
TRACE = f"traceparent: 00-{'1' * 32}-{'2' * 16}-01"
extras = st.lists(
    st.sampled_from(
        [
            "x-request-id: mine", "X-Request-Id: not; plain", TRACE, "Connection: close", "Content-Encoding: identity",
            "Content-Encoding: gzip", "Origin: http://a",
        ]
    ),
    unique=True,
    max_size=3,
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A request for detection, or nearly one, of a caller who has a key or not."""

    method: str
    target: str
    kind: str
    key: str
    extras: list[str]
    body: str
    chunked: bool

    def sent(self) -> bytes:
        body = BODIES[self.body]
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.key}", *self.extras]
        if self.kind:
            lines.append(f"Content-Type: {self.kind}")
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
            chunks = [body[at : at + 20_000] for at in range(0, len(body), 20_000)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
        else:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body


requests = st.builds(
    Asked,
    method=st.sampled_from(["POST"] * 6 + ["GET", "PUT"]),
    target=targets,
    kind=kinds,
    key=st.sampled_from([KEY] * 6 + ["wrong"]),
    extras=extras,
    body=st.sampled_from([*BODIES, "JPEG"]),
    chunked=st.booleans(),
)


def test_both_ways_tell_and_count_the_same(ways: tuple[Way, Way]) -> None:
    short, long = ways

    @settings(max_examples=150, deadline=None)
    @given(requests)
    def tell_the_same(asked: Asked) -> None:
        assert told(short, asked) == told(long, asked)

    tell_the_same()
    counts = short.counts()
    assert counts == long.counts()
    ok = [count for labels, count in counts.items() if ("code", "ok") in labels]
    assert ok[0] > 5  # about 25 of 150


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[Exchange]:
    """The exchanges that were begun."""
    begun: list[Exchange] = []
    start = Exchange.start

    def noted(self: Exchange) -> None:
        begun.append(self)
        start(self)

    monkeypatch.setattr(Exchange, "start", noted)
    return begun


def test_plain_requests_are_answered_by_their_connection(models: Path, exchanges: list[Exchange], called: bool) -> None:
    with gated(models, log_level="warning") as served:
        assert [pipeline.line.decodes for pipeline in served.service.models] == [called]
        cases: list[tuple[int, dict[str, Any]]] = [
            (1, {"content": JPEG}),
            (2, {"content": JPEG, "params": {"score_threshold": 0.2}}),
            (2, {"files": {"file": JPEG}}),
            (2, {"content": JPEG, "headers": {"Expect": "100-continue"}}),
        ]
        for expected, options in cases:
            assert served.client.post("/v1/detect", **options).status_code == 200
            assert len(exchanges) == expected


@pytest.mark.parametrize("options", [{"trusted_proxies": "127.0.0.1"}, {"otel": True}], ids=lambda o: next(iter(o)))
def test_there_are_no_exchanges_where_the_application_does_more(
    options: dict[str, Any], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert build_app(Service.load(Settings(models=models, **options))).exchanges is None


def test_a_layer_around_everything_sees_every_request(models: Path, exchanges: list[Exchange]) -> None:
    seen: list[str] = []

    class Layer:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])
            await self.app(scope, receive, send)

    app = build_app(Service.load(Settings(models=models)))
    assert app.exchanges is not None
    app.add_middleware(Layer)
    assert app.exchanges is None


def test_requests_behind_each_other_are_answered_in_their_order(models: Path, exchanges: list[Exchange]) -> None:
    with gated(models, log_level="warning", max_bytes=MOST) as served, connected(served.port) as connection:
        bad, long = b"no image", bytes(MOST + 1)
        connection.sendall(head_of(JPEG) + JPEG + head_of(bad) + bad + head_of(JPEG) + JPEG + head_of(long) + long)
        connection.sendall(head_of(JPEG) + JPEG)
        answers = Reader(connection)
        assert [read(answers)[0].status for _ in range(5)] == [200, 415, 200, 413, 200]
        assert exchanges


def ended(served: Gated, code: str) -> float:
    return metric(served.client, "calibox_requests_total", code=code)


@pytest.mark.parametrize("sent", [0, 100, len(JPEG)], ids=["head alone", "half a body", "all"])
def test_a_client_that_leaves_is_noted_and_nothing_is_left_of_it(
    sent: int, models: Path, exchanges: list[Exchange]
) -> None:
    with gated(models, log_level="warning") as served:
        served.engine.gate.clear()
        with connected(served.port) as connection:
            connection.sendall(head_of(JPEG) + JPEG[:sent])
            if sent == len(JPEG):
                served.engine.wait_for_run()
            wait_until(lambda: metric(served.client, "calibox_requests_in_flight") == 2)  # and that of the question
        wait_until(lambda: ended(served, "client_closed") == 1)
        assert metric(served.client, "calibox_requests_in_flight") == 1
        assert len(exchanges) == 1
        served.engine.gate.set()
        assert served.client.post("/v1/detect", content=JPEG).status_code == 200
        (model,) = served.service.models
        assert isinstance(model.line, engine_line.EngineLine)
        assert (model.line.held, model.line.waiting) == (0, 0)


def test_of_a_client_that_leaves_every_request_on_its_connection_ends(models: Path, exchanges: list[Exchange]) -> None:
    with gated(models, log_level="warning") as served:
        served.engine.gate.clear()
        with connected(served.port) as connection:
            connection.sendall((head_of(JPEG) + JPEG) * 2)  # the second waits behind the first
            served.engine.wait_for_run()
        wait_until(lambda: ended(served, "client_closed") == 1)
        assert len(exchanges) == 1


def test_an_answer_waits_for_a_client_that_does_not_read(models: Path, exchanges: list[Exchange]) -> None:
    with gated(models, log_level="warning") as served, connected(served.port) as connection:
        served.engine.gate.clear()
        connection.sendall(head_of(JPEG) + JPEG)
        served.engine.wait_for_run()
        (exchange,) = exchanges
        protocol = exchange._connection
        protocol.loop.call_soon_threadsafe(protocol.pause_writing)  # as the transport does when its buffer is full
        served.engine.gate.set()
        wait_until(lambda: metric(served.client, "calibox_images_total") == 1)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(PATIENCE_S)
        protocol.loop.call_soon_threadsafe(protocol.resume_writing)
        assert read(connection)[0].status == 200


def test_a_connection_whose_request_was_refused_early_does_not_stay_for_ever(models: Path) -> None:
    brief = gated(models, log_level="warning", max_bytes=MOST, keep_alive_s=1)
    with brief as served, connected(served.port) as connection:
        body = bytes(MOST + 1)
        connection.sendall(head_of(body))
        assert read(connection)[0].status == 413
        connection.sendall(body)
        assert connection.recv(1) == b""


def test_a_server_that_stops_answers_what_it_took(tmp_path: Path, exchanges: list[Exchange]) -> None:
    make_tiny_bundle(tmp_path)
    with (
        gated(tmp_path, log_level="warning") as served,
        connected(served.port) as whole,
        connected(served.port) as late,
    ):
        late.sendall(head_of(JPEG) + JPEG[:100])
        whole.sendall(head_of(JPEG) + JPEG)
        served.engine.wait_for_run()
        wait_until(lambda: len(exchanges) == 2)
        served.server.handle_exit(15, None)
        late.sendall(JPEG[100:])
        for connection in (whole, late):
            answer, document = read(connection)
            assert (answer.status, len(document["results"])) == (200, 1)
        assert connection.recv(1) == b""


def test_when_the_time_to_drain_is_over_what_still_comes_is_told_so(tmp_path: Path, exchanges: list[Exchange]) -> None:
    make_tiny_bundle(tmp_path)
    with gated(tmp_path, log_level="warning", drain_s=1) as served, connected(served.port) as connection:
        connection.sendall(head_of(JPEG) + JPEG[:100])
        wait_until(lambda: len(exchanges) == 1)
        served.engine.gate.clear()
        with connected(served.port) as whole:
            whole.sendall(head_of(JPEG) + JPEG)
            served.engine.wait_for_run()
            served.server.handle_exit(15, None)
            for waiting in (connection, whole):
                answer, document = read(waiting)
                assert (answer.status, document["code"]) == (503, "stopping")
        served.engine.gate.set()


def test_while_a_request_is_answered_a_server_that_stops_tells_others_so(
    tmp_path: Path, exchanges: list[Exchange]
) -> None:
    make_tiny_bundle(tmp_path)
    with gated(tmp_path, log_level="warning") as served, connected(served.port) as connection:
        served.engine.gate.clear()
        connection.sendall(head_of(JPEG) + JPEG)
        served.engine.wait_for_run()
        served.server.handle_exit(15, None)
        for _ in range(5):  # the listening socket is open for longer than a tick of the server
            assert httpx2.post(f"http://127.0.0.1:{served.port}/v1/detect", content=JPEG).status_code == 503
            threading.Event().wait(0.1)
        served.engine.gate.set()
        assert read(connection)[0].status == 200


def test_an_image_that_waits_too_long_is_told_so(models: Path, exchanges: list[Exchange]) -> None:
    with gated(models, log_level="warning") as served:
        served.engine.gate.clear()
        with connected(served.port) as first, connected(served.port) as second:
            first.sendall(head_of(JPEG) + JPEG)
            served.engine.wait_for_run()
            second.sendall(head_of(JPEG).replace(b"detect", b"detect?timeout_ms=50") + JPEG)
            answer, document = read(second)
            assert (answer.status, document["code"]) == (504, "deadline")
            served.engine.gate.set()
            assert read(first)[0].status == 200


def test_a_fault_in_what_follows_the_engine_is_told_to_its_request_alone(
    models: Path, exchanges: list[Exchange], monkeypatch: pytest.MonkeyPatch
) -> None:
    with gated(models, log_level="error") as served:
        with monkeypatch.context() as patch:
            patch.setattr(encoded_work, "finish", lambda *_: 1 / 0)
            patch.setattr(pipeline, "finish", lambda *_: 1 / 0)
            answer = served.client.post("/v1/detect", content=JPEG)
            assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert served.client.post("/v1/detect", content=JPEG).status_code == 200
        assert metric(served.client, "calibox_requests_in_flight") == 1
