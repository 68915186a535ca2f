"""What both clients send, and what they make of each kind of answer."""

import io
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from calibox_client import (
    ApiError,
    AsyncClient,
    BadReplyError,
    CaliboxClientError,
    Client,
    DeadlineError,
    ImageInputError,
    OverloadedError,
    RetryPolicy,
    ServerDeadlineError,
    ServerUnreachableError,
)
from calibox_client.retries import Deadline
from tests.support.http import CALLERS, DETECTION, URL, Played, Step, answer, problem

Caller = Callable[..., Any]
IMAGE = b"\xff\xd8\xff\xe0 the rest of a JPEG"


@pytest.fixture(params=sorted(CALLERS))
def call(request: pytest.FixtureRequest) -> Caller:
    """Both clients, one after the other."""
    return CALLERS[request.param]


def detect(client: Any) -> Any:
    return client.detect(IMAGE)


def test_an_answer_becomes_typed_results(call: Caller) -> None:
    found = call(Played([answer([DETECTION, {**DETECTION, "label": "RBC", "label_id": 1}])]), detect)
    assert (found.width, found.height, found.model, found.version) == (64, 48, "cells", "3")
    assert found.timing == {"total": 4.5}
    assert found.labels == ("WBC", "RBC")
    assert found[0].score == DETECTION["score"]  # to the last digit
    assert found[0].as_json() == DETECTION


def test_an_answer_without_detections_has_empty_arrays(call: Caller) -> None:
    found = call(Played([answer([])]), detect)
    assert len(found) == 0
    assert found.labels == ()
    assert found.boxes.shape == (0, 4)
    assert found.boxes.dtype == np.float32
    assert found.label_ids.dtype == np.int64
    assert found.scores.shape == found.classification_scores.shape == found.localization_scores.shape == (0,)


def test_one_image_is_a_raw_body_with_parameters_in_the_query(call: Caller) -> None:
    played = Played([answer([])])
    parameters = {
        "fusion": "geometric",
        "alpha": 0.4,
        "score_threshold": 0.05,
        "iou_threshold": 0.6,
        "max_detections": 7,
        "classes": ["WBC", 1, "a, b & c"],
        "model": "cells",
        "version": 3,
        "refine": True,
        "tile": True,
        "overlap": 0.25,
        "priority": "high",
        "timeout_ms": 250,
        "sigma": None,
    }
    call(played, lambda client: client.detect(IMAGE, **parameters))
    (request,) = played.requests
    assert request.method == "POST"
    assert request.url.path == "/v1/detect"
    assert request.read() == IMAGE
    assert request.headers["content-type"] == "image/jpeg"
    assert request.url.params.multi_items() == [
        ("fusion", "geometric"),
        ("alpha", "0.4"),
        ("score_threshold", "0.05"),
        ("iou_threshold", "0.6"),
        ("max_detections", "7"),
        ("classes", "WBC"),
        ("classes", "1"),
        ("classes", "a, b & c"),
        ("model", "cells"),
        ("version", "3"),
        ("refine", "true"),
        ("tile", "true"),
        ("overlap", "0.25"),
        ("priority", "high"),
        ("timeout_ms", "250"),
    ]


def test_a_list_is_one_multipart_request_and_a_list_of_results(call: Caller, tmp_path: Path) -> None:
    path = tmp_path / "cell.png"
    Image.new("RGB", (3, 2)).save(path)
    played = Played([answer([DETECTION], [], [DETECTION, DETECTION])])
    found = call(played, lambda client: client.detect([path, IMAGE, str(path)], alpha=0.25, classes=["WBC", 1]))
    assert [len(one) for one in found] == [1, 0, 2]
    (request,) = played.requests
    assert request.url.params.multi_items() == []
    assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
    body = request.read()
    assert body.count(b'filename="cell.png"\r\nContent-Type: image/png\r\n\r\n' + path.read_bytes()) == 2
    assert body.count(b"Content-Type: image/jpeg\r\n\r\n" + IMAGE) == 1
    for field, value in ((b"alpha", b"0.25"), (b"classes", b"WBC"), (b"classes", b"1")):
        assert b'name="' + field + b'"\r\n\r\n' + value + b"\r\n" in body


def test_refine_may_have_a_value_for_each_image(call: Caller) -> None:
    played = Played([answer([], [])])
    call(played, lambda client: client.detect([IMAGE, IMAGE], refine=[False, 3]))
    (request,) = played.requests
    body = request.read()
    places = [body.index(b'name="refine"\r\n\r\n' + value + b"\r\n") for value in (b"false", b"3")]
    assert places == sorted(places)


def test_a_list_of_one_stays_a_list(call: Caller) -> None:
    found = call(Played([answer([DETECTION])]), lambda client: client.detect((IMAGE,)))
    assert isinstance(found, list)
    assert len(found) == 1


def test_an_empty_list_is_refused_before_anything_is_sent(call: Caller) -> None:
    played = Played([])
    with pytest.raises(ImageInputError, match="empty"):
        call(played, lambda client: client.detect([]))
    assert played.requests == []


@pytest.mark.parametrize("kind", ["array", "pillow"])
def test_pixels_travel_without_loss(call: Caller, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    played = Played([answer([])])
    call(played, lambda client: client.detect(pixels if kind == "array" else Image.fromarray(pixels)))
    (request,) = played.requests
    assert request.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(request.read()))), pixels)


def test_an_unknown_parameter_is_a_type_error(call: Caller) -> None:
    with pytest.raises(TypeError, match="no parameter treshold; it has fusion, alpha"):
        call(Played([]), lambda client: client.detect(IMAGE, treshold=0.5))


def test_classes_as_one_string_is_a_type_error(call: Caller) -> None:
    with pytest.raises(TypeError, match="classes must be a list"):
        call(Played([]), lambda client: client.detect(IMAGE, classes="WBC"))


def test_busy_then_fine(call: Caller) -> None:
    played = Played([problem(429, "overloaded", "full"), problem(503, "stopping", "bye"), answer([DETECTION])])
    assert len(call(played, detect)) == 1
    assert len(played.requests) == 3
    assert {request.read() for request in played.requests} == {IMAGE}  # each try sends the whole image
    assert played.pauses == [pause for _, pause in played.retries]
    assert [type(error) for error, _ in played.retries] == [OverloadedError, OverloadedError]
    assert 0.125 <= played.pauses[0] <= 0.25 <= played.pauses[1] <= 0.5  # doubling, the upper half random


def test_busy_to_the_end_raises_the_servers_problem(call: Caller) -> None:
    played = Played([problem(429, "overloaded", "the queue is full", Retry_After="1")] * 3)
    with pytest.raises(OverloadedError, match="the queue is full") as caught:
        call(played, detect, retries=RetryPolicy(attempts=3))
    assert len(played.requests) == 3
    assert len(played.pauses) == 2
    error = caught.value
    assert (error.status, error.code, error.detail) == (429, "overloaded", "the queue is full")
    assert (error.request_id, error.retry_after) == ("r-17", 1.0)
    assert error.problem["title"] == "overloaded"


def test_retry_after_in_seconds_is_honoured(call: Caller) -> None:
    played = Played([problem(429, "overloaded", "full", Retry_After="7"), answer([])])
    call(played, detect)
    assert 7.0 <= played.pauses[0] <= 7.0 * 1.25


def test_retry_after_as_a_date_is_honoured(call: Caller) -> None:
    then = datetime.now(UTC) + timedelta(seconds=12)
    played = Played([problem(503, "stopping", "bye", Retry_After=format_datetime(then, usegmt=True)), answer([])])
    call(played, detect)
    assert 8.0 < played.pauses[0] <= 12.0 * 1.25  # whole seconds, and a slow machine between the two clocks


def test_retry_after_is_capped(call: Caller) -> None:
    played = Played([problem(429, "overloaded", "full", Retry_After="3600"), answer([])])
    call(played, detect, retries=RetryPolicy(longest_pause=3.0))
    assert played.pauses == [3.0]


def test_no_pause_is_begun_that_would_pass_the_deadline(call: Caller) -> None:
    played = Played([problem(429, "overloaded", "full", Retry_After="10"), answer([])])
    with pytest.raises(OverloadedError):
        call(played, detect, timeout=5.0)
    assert played.pauses == []


@pytest.mark.parametrize("image", [IMAGE, [IMAGE, IMAGE]], ids=["one", "list"])
def test_the_server_is_told_what_is_left_of_the_calls_time(call: Caller, image: Any) -> None:
    busy = problem(429, "overloaded", "full")
    played = Played([busy, answer([], [])] if isinstance(image, list) else [busy, answer([])])
    call(played, lambda client: client.detect(image, timeout=30.0))
    for request in played.requests:
        body = request.read()
        told = re.search(rb'name="timeout_ms"\r\n\r\n(\d+)\r\n', body) if isinstance(image, list) else None
        left = int(told[1]) if told else int(request.url.params["timeout_ms"])
        assert 10_000 < left <= 30_000  # a slow machine between


@pytest.mark.parametrize(("asked", "told"), [(250, "250"), (250.5, "250.5"), (30_000, "30000")])
def test_a_shorter_time_that_the_caller_asks_for_stays(call: Caller, asked: float, told: str) -> None:
    played = Played([answer([])])
    call(played, lambda client: client.detect(IMAGE, timeout_ms=asked))
    assert played.requests[0].url.params["timeout_ms"] == told


def test_no_server_is_asked_for_more_time_than_servers_give(call: Caller) -> None:
    played = Played([answer([])])
    call(played, lambda client: client.detect(IMAGE, timeout=5000.0, timeout_ms=2e6))
    assert played.requests[0].url.params["timeout_ms"] == "600000"


def test_a_call_may_have_a_time_of_its_own(call: Caller) -> None:
    with pytest.raises(DeadlineError, match=r"the 2\.5 s that the call had"):
        call(Played([httpx2.ReadTimeout("slow")]), lambda client: client.detect(IMAGE, timeout=2.5))
    with pytest.raises(ValueError, match="timeout must be a positive number"):
        call(Played([]), lambda client: client.detect(IMAGE, timeout=0.0))


def test_the_budget_of_repeats_is_the_clients_and_not_the_calls(call: Caller) -> None:
    """Two tokens, and a third comes later than any pause may end: the third repeat is not made."""
    policy = RetryPolicy(attempts=8, longest_pause=1.0, budget=2, budget_per_second=0.01)
    played = Played([problem(503, "stopping", "bye")] * 4)
    with pytest.raises(OverloadedError):
        call(played, detect, retries=policy)
    assert len(played.requests) == 3
    assert len(played.pauses) == 2


@pytest.mark.parametrize(
    "failure",
    [
        httpx2.ConnectError("refused"),
        httpx2.ConnectTimeout("no route"),
        httpx2.ReadError("reset"),
        httpx2.RemoteProtocolError("the server disconnected without sending a response"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_broken_connection_is_tried_again(call: Caller, failure: Exception) -> None:
    played = Played([failure, answer([DETECTION])])
    assert len(call(played, detect)) == 1
    assert len(played.requests) == 2


def test_a_server_that_stays_away_is_a_connection_error_with_its_address(call: Caller) -> None:
    played = Played([httpx2.ConnectError("refused")] * 8)
    with pytest.raises(ServerUnreachableError, match=URL) as caught:
        call(played, detect)
    assert isinstance(caught.value, ConnectionError)
    assert len(played.requests) == 8


def test_a_connection_that_waits_too_long_is_a_deadline_and_not_repeated(call: Caller) -> None:
    played = Played([httpx2.ReadTimeout("slow")])
    with pytest.raises(DeadlineError, match="60 s") as caught:
        call(played, detect)
    assert isinstance(caught.value, TimeoutError)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "malformed"),
        (401, "unauthorized"),
        (404, "unknown_model"),
        (413, "too_many_bytes"),
        (415, "unsupported_media_type"),
        (422, "unreadable_image"),
        (500, "internal_error"),
        (502, "bad_gateway"),
    ],
)
def test_other_refusals_are_never_repeated(call: Caller, status: int, code: str) -> None:
    played = Played([problem(status, code, "a sentence that helps")])
    with pytest.raises(ApiError, match="a sentence that helps") as caught:
        call(played, detect)
    assert len(played.requests) == 1
    assert played.pauses == []
    assert type(caught.value) is ApiError
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (status, code, "r-17")


def test_504_is_both_a_refusal_and_a_deadline(call: Caller) -> None:
    with pytest.raises(ServerDeadlineError) as caught:
        call(Played([problem(504, "deadline", "waited 3 s")]), detect)
    assert isinstance(caught.value, DeadlineError)
    assert caught.value.code == "deadline"


PAGE = "<html><head><title>502 Bad Gateway</title><style>b {}</style></head><body><h1>nginx</h1></body></html>"


def test_the_html_page_of_a_proxy_is_a_readable_refusal(call: Caller) -> None:
    with pytest.raises(ApiError, match=r"text/html: 502 Bad Gateway nginx") as caught:
        call(Played([httpx2.Response(502, html=PAGE)]), detect)
    assert (caught.value.code, caught.value.problem) == ("unknown", {})
    assert "<" not in caught.value.detail


def test_a_proxy_that_says_503_in_html_is_tried_again(call: Caller) -> None:
    played = Played([httpx2.Response(503, html=PAGE, headers={"Retry-After": "2"}), answer([])])
    call(played, detect)
    assert 2.0 <= played.pauses[0] <= 2.5


@pytest.mark.parametrize(
    "reply",
    [
        lambda: httpx2.Response(200, html=PAGE),
        lambda: httpx2.Response(200, content=b'{"model": "cells", "res'),
        lambda: httpx2.Response(200, json=["not", "an", "object"]),
        lambda: httpx2.Response(200, json={"model": "cells", "version": "1"}),
        lambda: httpx2.Response(200, json={"model": "m", "version": "1", "results": [{"width": 1, "height": 1}]}),
        lambda: answer([{**DETECTION, "box": [1, 2, 3]}]),
        lambda: answer([{**DETECTION, "score": None}]),
        lambda: httpx2.Response(200, content=b'{"model": "m", "version": "1", "results": NaN}'),
        lambda: answer([], []),
        lambda: httpx2.Response(204),
        lambda: httpx2.Response(200, stream=httpx2.ByteStream(b"no gzip"), headers={"Content-Encoding": "gzip"}),
    ],
    ids=["html", "cut", "list", "no results", "no detections", "box", "null", "NaN", "two results", "empty", "gzip"],
)
def test_an_answer_that_is_none_is_told_and_not_repeated(call: Caller, reply: Callable[[], httpx2.Response]) -> None:
    played = Played([reply()])
    with pytest.raises(BadReplyError):
        call(played, detect)
    assert len(played.requests) == 1


def test_a_redirect_names_the_address_to_use(call: Caller) -> None:
    with pytest.raises(BadReplyError, match=r"redirects to https://elsewhere\.test/"):
        call(Played([httpx2.Response(307, headers={"Location": "https://elsewhere.test/"})]), detect)


READY = {
    "name": "cells",
    "version": "3",
    "state": "ready",
    "default": True,
    "classes": [{"name": "RBC", "label_id": 1}],
    "max_detections": 50,
}
BROKEN = {"name": "cells", "version": "4", "state": "broken", "default": False, "reason": "model.onnx is damaged"}


def test_models_are_listed_with_those_that_could_not_be_loaded(call: Caller) -> None:
    played = Played([httpx2.Response(200, json={"models": [READY, BROKEN]})])
    model, broken = call(played, lambda client: client.models())
    assert (played.requests[0].method, played.requests[0].url.path) == ("GET", "/v1/models")
    assert (model.name, model.version, model.labels) == ("cells", "3", {1: "RBC"})
    assert (model.ready, model.default, model.document) == (True, True, READY)
    assert (broken.ready, broken.labels, broken.document["reason"]) == (False, {}, "model.onnx is damaged")


VERSIONS = {
    "name": "a b/c",
    "default_version": "3",
    "versions": [{**READY, "manifest": {"n": 3}}, {**READY, "version": "2", "manifest": {"n": 2}}, BROKEN],
}


@pytest.mark.parametrize(("version", "expected"), [(None, 3), ("3", 3), ("2", 2)])
def test_the_manifest_of_a_version_is_read(call: Caller, version: str | None, expected: int) -> None:
    played = Played([httpx2.Response(200, json=VERSIONS)])
    assert call(played, lambda client: client.manifest("a b/c", version)) == {"n": expected}
    assert played.requests[0].url.raw_path == b"/v1/models/a%20b%2Fc"


def test_a_model_comes_with_its_classes_and_its_manifest(call: Caller) -> None:
    played = Played([httpx2.Response(200, json=VERSIONS)])
    model = call(played, lambda client: client.model("a b/c", "2"))
    assert (model.name, model.version, model.labels, model.manifest) == ("cells", "2", {1: "RBC"}, {"n": 2})


def test_the_manifest_of_a_version_that_is_not_ready_is_a_value_error(call: Caller) -> None:
    played = Played([httpx2.Response(200, json=VERSIONS)])
    with pytest.raises(ValueError, match="no version 4 ready; it has 3, 2"):
        call(played, lambda client: client.manifest("cells", "4"))


@pytest.mark.parametrize("document", [[], {"models": 3}, {"models": [{"name": "x"}]}, {"models": ["x"]}])
def test_a_list_of_models_that_is_none_is_told(call: Caller, document: Any) -> None:
    with pytest.raises(BadReplyError, match="GET /v1/models"):
        call(Played([httpx2.Response(200, json=document)]), lambda client: client.models())


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda: httpx2.Response(200, json={"status": "ready"}), True),
        (lambda: problem(503, "starting", "warming up"), False),
        (lambda: httpx2.Response(502, html=PAGE), False),
        (lambda: httpx2.ConnectError("refused"), False),
        (lambda: httpx2.ReadTimeout("slow"), False),
    ],
)
def test_ready_says_yes_or_no_at_once(call: Caller, step: Callable[[], Step], expected: bool) -> None:
    played = Played([step()])
    assert call(played, lambda client: client.ready()) is expected
    assert [request.url.path for request in played.requests] == ["/readyz"]


def test_headers_and_a_path_prefix_are_kept() -> None:
    played = Played([answer([])])
    with Client(f"{URL}/edge/", headers={"Authorization": "Bearer key"}, **played.arguments()) as client:
        client.detect(IMAGE)
    (request,) = played.requests
    assert str(request.url.copy_with(query=None)) == f"{URL}/edge/v1/detect"
    assert request.headers["authorization"] == "Bearer key"
    assert request.headers["user-agent"].startswith("calibox-client/")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host/?model=a", ""])
def test_an_address_that_is_none_is_refused_at_once(kind: Any, url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        kind(url)


@pytest.mark.parametrize("timeout", [0, -1, math.inf, math.nan])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        Client(URL, timeout=timeout)


def test_a_header_that_cannot_be_sent_is_not_tried_again(call: Caller) -> None:
    played = Played([httpx2.LocalProtocolError("illegal header")])
    with pytest.raises(CaliboxClientError, match="illegal header"):
        call(played, detect)
    assert len(played.requests) == 1


def test_a_reply_that_trickles_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocking client looks at the clock after every piece of the answer."""
    now = [0.0]

    class Trickle(httpx2.SyncByteStream):
        def __iter__(self) -> Any:
            for _ in range(1000):
                now[0] += 1.0
                yield b" "

    monkeypatch.setattr("calibox_client.settings.Deadline", lambda seconds: Deadline(seconds, lambda: now[0]))
    with pytest.raises(DeadlineError):
        CALLERS["blocking"](Played([httpx2.Response(200, stream=Trickle())]), detect, timeout=5.0)
    assert now[0] <= 6.0
