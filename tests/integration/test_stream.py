"""The WebSocket stream of video frames: order, dropped frames, errors, limits."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from calibox_server.keys import make_key
from calibox_server.stream import MAX_UNSENT
from tests.support.gated_engine import PATIENCE_S
from tests.support.gated_server import Gated, gated, metric, wait_until
from tests.support.live_server import live_server
from tests.support.pictures import encoded, huge_png, picture

FRAMES = [encoded(picture(width=80 + 8 * i, seed=i), "JPEG") for i in range(4)]
RAW = {"Content-Type": "image/jpeg"}


@contextmanager
def stream(url: str, **options: Any) -> Iterator[ClientConnection]:
    address = url.replace("http://", "ws://") + "/v1/stream"
    with connect(address, open_timeout=PATIENCE_S, compression=None, **options) as socket:
        yield socket


def receive(socket: ClientConnection) -> Any:
    return json.loads(socket.recv(timeout=PATIENCE_S))


def stream_of(server: Gated) -> Any:
    return stream(str(server.client.base_url).rstrip("/"))


def dropped(server: Gated) -> float:
    return metric(server.client, "calibox_requests_total", code="dropped")


def test_frames_are_answered_in_their_order_as_v1_answers_them(models: Path) -> None:
    parameters = {"score_threshold": 0.1, "fusion": "power", "alpha": 0.7}
    with (
        live_server(models, log_level="warning", stream_frames=len(FRAMES)) as url,
        httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
        stream(url) as socket,
    ):
        socket.send(json.dumps(parameters))
        for frame in FRAMES:
            socket.send(frame)
        for number, frame in enumerate(FRAMES):
            answer = receive(socket)
            alone = client.post("/v1/detect", content=frame, headers=RAW, params=parameters).json()
            assert answer.pop("frame") == number
            assert answer.keys() == alone.keys()
            assert answer["results"] == alone["results"]
            assert len(alone["results"][0]["detections"]) > 3


def test_parameters_hold_for_the_frames_after_them(models: Path) -> None:
    with live_server(models, log_level="warning", stream_frames=4) as url, stream(url) as socket:
        socket.send(FRAMES[0])
        socket.send('{"max_detections": 1, "score_threshold": 0}')
        socket.send(FRAMES[0])
        socket.send("{}")
        socket.send(FRAMES[0])
        counts = [len(receive(socket)["results"][0]["detections"]) for _ in range(3)]
    assert counts[1] == 1
    assert counts[0] == counts[2] > 1


def test_the_oldest_waiting_frame_gives_way_to_the_newest_and_is_told_in_its_turn(models: Path) -> None:
    with gated(models, stream_frames=2, log_level="warning") as server, stream_of(server) as socket:
        server.engine.gate.clear()
        for i in range(8):  # 0 and 1 are worked on, 2 and 3 wait; each one more drops the oldest that waits
            socket.send(FRAMES[i % 4])
        wait_until(lambda: dropped(server) == 4)
        assert metric(server.client, "calibox_queue_depth") == 1
        server.engine.gate.set()
        answers = [receive(socket) for _ in range(8)]
    assert [answer["frame"] for answer in answers] == list(range(8))
    assert answers[2:6] == [{"frame": i, "dropped": True} for i in (2, 3, 4, 5)]
    assert [answers[i]["results"][0]["width"] for i in (0, 1, 6, 7)] == [80, 88, 96, 104]
    assert len(server.engine.batches) == 4


def test_more_dropped_frames_than_may_wait_to_be_told_hold_the_client_up_and_lose_nothing(models: Path) -> None:
    count = 2 * MAX_UNSENT
    with gated(models, stream_frames=1, log_level="warning") as server, stream_of(server) as socket:
        server.engine.gate.clear()
        socket.send(FRAMES[0])
        server.engine.wait_for_run()

        def send() -> None:
            for _ in range(count):
                socket.send(b"no image")

        sender = threading.Thread(target=send)
        sender.start()
        wait_until(lambda: dropped(server) >= MAX_UNSENT - 2)
        server.engine.gate.set()
        answers = [receive(socket) for _ in range(count + 1)]
        sender.join()
    assert [answer["frame"] for answer in answers] == list(range(count + 1))
    assert answers[0]["results"]
    assert all(a.get("dropped") or a["error"]["code"] == "unsupported_media_type" for a in answers[1:])
    assert answers[-1]["error"]["status"] == 415


def test_an_error_of_one_frame_does_not_end_the_stream(models: Path) -> None:
    bad = [b"no image", b"", FRAMES[0][:-200], huge_png(30_000, 20_000)]
    with live_server(models, log_level="warning", stream_frames=8) as url, stream(url) as socket:
        for frame in [*bad, FRAMES[0]]:
            socket.send(frame)
        answers = [receive(socket) for _ in range(5)]
    codes = [answer["error"]["code"] for answer in answers[:4]]
    assert codes == ["unsupported_media_type", "unsupported_media_type", "truncated_image", "too_many_pixels"]
    assert answers[2]["error"]["detail"].startswith("frame 2 is not read: ")
    assert answers[0]["error"].keys() == {"type", "title", "status", "code", "detail", "request_id"}
    assert answers[4]["results"]


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ('{"score_threshold": 2}', "invalid_parameter", "score_threshold must be a number within 0..1, got 2"),
        ('{"model": "other"}', "unknown_model", "there is no model 'other'; served are tiny"),
        ('{"speed": 2}', "invalid_parameter", "there is no parameter 'speed'"),
        ("[]", "malformed", "the parameters must be a JSON object"),
        ("{", "malformed", "not JSON"),
        ("[" * 50, "malformed", "not JSON"),
        ('{"refine": ' + "[" * 50 + "]" * 50 + "}", "json_too_complex", "nested deeper"),
    ],
)
def test_parameters_that_are_not_accepted_end_the_stream_after_the_answers_before_them(
    models: Path, text: str, code: str, sentence: str
) -> None:
    with live_server(models, log_level="warning") as url, stream(url) as socket:
        socket.send(FRAMES[0])
        socket.send(text)
        assert receive(socket)["frame"] == 0
        refusal = receive(socket)
        assert refusal.keys() == {"error"}
        assert refusal["error"]["code"] == code
        assert sentence in refusal["error"]["detail"]
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=PATIENCE_S)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, code)


def test_a_frame_that_is_too_long_ends_the_stream(models: Path) -> None:
    with live_server(models, log_level="warning", max_bytes=10_000) as url, stream(url) as socket:
        socket.send(b"x" * 10_001)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=PATIENCE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


def test_a_full_queue_refuses_single_frames(models: Path) -> None:
    with gated(models, queue_size=1, log_level="warning") as server, ThreadPoolExecutor(1) as callers:
        server.engine.gate.clear()
        held = callers.submit(server.client.post, "/v1/detect", content=FRAMES[0], headers=RAW)
        server.engine.wait_for_run()
        with stream_of(server) as socket:
            socket.send(FRAMES[1])
            assert receive(socket)["error"]["code"] == "overloaded"
            server.engine.gate.set()
            assert held.result().status_code == 200
            socket.send(FRAMES[1])
            assert receive(socket)["results"]


def test_a_client_that_leaves_takes_its_frames_with_it(models: Path) -> None:
    with gated(models, stream_frames=2, log_level="warning") as server, ThreadPoolExecutor(1) as callers:
        server.engine.gate.clear()
        held = callers.submit(server.client.post, "/v1/detect", content=FRAMES[0], headers=RAW)
        server.engine.wait_for_run()
        with stream_of(server) as socket:
            for frame in FRAMES:
                socket.send(frame)
            wait_until(lambda: metric(server.client, "calibox_queue_depth") == 2)
        wait_until(lambda: metric(server.client, "calibox_requests_total", code="client_closed") == 2)
        assert metric(server.client, "calibox_queue_depth") == 0
        server.engine.gate.set()
        assert held.result().status_code == 200
        assert len(server.engine.batches) == 1


def test_a_server_that_stops_closes_its_streams(models: Path) -> None:
    with gated(models, log_level="warning") as server, stream_of(server) as socket:
        socket.send(FRAMES[0])
        assert receive(socket)["results"]
        server.server.should_exit = True
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=PATIENCE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


def test_frames_that_are_worked_on_when_the_server_stops_end_and_those_that_wait_never_begin(models: Path) -> None:
    with gated(models, stream_frames=1, log_level="warning") as server, stream_of(server) as socket:
        server.engine.gate.clear()
        for frame in FRAMES[:2]:
            socket.send(frame)
        server.engine.wait_for_run()
        server.server.should_exit = True
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=PATIENCE_S)
        server.engine.gate.set()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert len(server.engine.batches) == 1


def test_a_stream_needs_a_key_where_requests_do(models: Path) -> None:
    key, line = make_key("camera")
    with live_server(models, log_level="warning", api_keys=line) as url:
        with pytest.raises(InvalidStatus) as refused, stream(url):
            pass
        assert refused.value.response.status_code == 401
        with stream(url, additional_headers={"Authorization": f"Bearer {key}"}) as socket:
            socket.send(FRAMES[0])
            assert receive(socket)["results"]


def test_each_frame_counts_as_an_image_of_its_sender(models: Path) -> None:
    limits = {"rate_images": 0.001, "rate_burst_s": 2000}  # two at once, then one in a thousand seconds
    with live_server(models, log_level="warning", stream_frames=8, **limits) as url, stream(url) as socket:
        for frame in FRAMES:
            socket.send(frame)
        answers = [receive(socket) for _ in FRAMES]
    codes = [answer.get("error", {}).get("code", "ok") for answer in answers]
    assert codes == ["ok", "ok", "rate_limited", "rate_limited"]


@pytest.mark.parametrize(
    ("origin", "welcome"), [(None, True), ("own", True), ("https://a.b", True), ("https://c", False)]
)
def test_pages_of_other_servers_may_open_a_stream_only_where_they_may_ask(
    models: Path, origin: str | None, welcome: bool
) -> None:
    with live_server(models, log_level="warning", cors_origins="https://a.b") as url:
        sent = url if origin == "own" else origin
        assert handshake(url, sent) == (101 if welcome else 403)


def handshake(url: str, origin: str | None) -> int:
    try:
        with stream(url, origin=origin) as socket:
            assert socket.response is not None
            return socket.response.status_code
    except InvalidStatus as refused:
        return refused.response.status_code
