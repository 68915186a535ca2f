"""Keys, rates and CORS over a real socket."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from calibox_server import rereading
from calibox_server.keys import make_key
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

JPEG = encoded(picture(), "JPEG")
RAW = {"Content-Type": "image/jpeg"}
KEY, LINE = make_key("ci.bot")
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def client(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(LINE)
    with live_server(models, api_keys_file=file) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client


def detect(client: httpx2.Client, **headers: str) -> httpx2.Response:
    return client.post("/v1/detect", content=JPEG, headers={**RAW, **headers})


def test_a_key_opens_and_its_want_is_a_problem_document(client: httpx2.Client) -> None:
    assert detect(client, **BEARER).status_code == 200
    assert detect(client, **{"X-API-Key": KEY}).status_code == 200
    for headers in ({}, {"Authorization": "Bearer calibox_guess"}):
        refused = detect(client, **headers)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert refused.json()["request_id"] == refused.headers["X-Request-Id"]
        assert "total;dur=" in refused.headers["Server-Timing"]


def test_health_and_the_page_are_open_and_everything_else_is_guarded(client: httpx2.Client) -> None:
    found = {path: client.get(path).status_code for path in ("/livez", "/readyz", "/")}
    assert set(found.values()) == {200}
    for path in ("/v1/models", "/v1/models/tiny", "/metrics", "/docs", "/openapi.json", "/v2", "/nothing", "/livez/"):
        assert client.get(path).status_code == 401, path
        assert client.get(path, headers=BEARER).status_code != 401, path


def test_who_is_refused_at_the_door_is_counted(models: Path) -> None:
    with live_server(models, api_keys=LINE) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        detect(client)
        detect(client, **BEARER)
        text = client.get("/metrics", headers=BEARER).text
    assert 'calibox_requests_total{code="unauthorized"} 1.0' in text
    assert 'calibox_requests_total{code="ok"} 1.0' in text


def test_the_file_of_keys_is_read_again_when_it_changes(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rereading, "LOOK_S", 0.0)
    new_key, new_line = make_key("new.bot")
    file = tmp_path / "keys"
    file.write_text(LINE)
    with live_server(models, api_keys_file=file) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:

        def statuses() -> list[int]:
            return [detect(client, **{"X-API-Key": key}).status_code for key in (KEY, new_key)]

        assert statuses() == [200, 401]
        file.write_text(f"{LINE}\n{new_line}\n")
        assert statuses() == [200, 200]
        file.write_text("not a line of keys, and longer than any before it: " + "x" * 200)
        assert statuses() == [200, 200]  # what was read before
        file.write_text(new_line)
        assert statuses() == [401, 200]


def test_too_many_requests_are_told_when_to_come_back(models: Path) -> None:
    # One request in 1000 s: however slow the machine, no second one falls due.
    with live_server(models, rate_requests=0.001) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        assert detect(client).status_code == 200
        refused = detect(client)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert 900 <= int(refused.headers["Retry-After"]) <= 1000
        assert client.get("/readyz").status_code == 200


def test_images_are_counted_one_by_one(models: Path) -> None:
    with (
        live_server(models, rate_images=0.002, rate_burst_s=1000) as url,
        httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        three = [("f", (f"{i}.jpg", JPEG)) for i in range(3)]
        assert client.post("/v1/detect", files=three[:1]).status_code == 200
        refused = client.post("/v1/detect", files=three)  # 1 of 2 is left
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert "images per second" in refused.json()["detail"]
        assert client.post("/v1/detect", files=three[:1]).status_code == 200


def test_tiles_are_counted_as_images_and_paid_for_afterwards(models: Path) -> None:
    tiled = {"tile": "32", "overlap": "0"}  # 80 x 60 pixels: 3 x 2 tiles and the whole
    for budget, second in ((7, 429), (9, 200)):
        with (
            live_server(models, rate_images=budget / 1000, rate_burst_s=1000) as url,
            httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
        ):
            assert client.post("/v1/detect", content=JPEG, headers=RAW, params=tiled).status_code == 200
            assert client.post("/v1/detect", content=JPEG, headers=RAW).status_code == second
    with (
        live_server(models, rate_images=0.003, rate_burst_s=1000) as url,  # fewer than the tiles
        httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        assert client.post("/v1/detect", content=JPEG, headers=RAW, params=tiled).status_code == 200
        refused = client.get("/v1/models")
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        assert int(refused.headers["Retry-After"]) > 1000  # the debt of four tiles


def test_a_websocket_is_opened_with_a_key_only(models: Path) -> None:
    with live_server(models, api_keys=LINE) as url:
        address = url.replace("http", "ws") + "/v1/stream"
        with pytest.raises(InvalidStatus) as caught:
            connect(address)
        assert caught.value.response.status_code == 401
        assert b'"code":"unauthorized"' in (caught.value.response.body or b"")
        with connect(address, additional_headers=BEARER) as stream:
            stream.send(JPEG)
            assert "results" in json.loads(stream.recv(PATIENCE_S))


def test_a_stream_pays_for_its_images(models: Path) -> None:
    with (
        live_server(models, rate_images=0.001, rate_burst_s=2000) as url,
        connect(url.replace("http", "ws") + "/v1/stream") as stream,
    ):
        answers = []
        for _ in range(3):
            stream.send(JPEG)
            answers.append(json.loads(stream.recv(PATIENCE_S)))
    assert ["results" in answer for answer in answers] == [True, True, False]
    assert "rate_limited" in str(answers[2])


def test_an_address_behind_a_proxy_is_believed_of_trusted_proxies_only(models: Path) -> None:
    def statuses(client: httpx2.Client) -> list[int]:
        return [
            client.get("/v1/models", headers={"X-Forwarded-For": address}).status_code
            for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1")
        ]

    for trusted, wanted in (("", [200, 429, 429]), ("127.0.0.1", [200, 200, 429])):
        with (
            live_server(models, rate_requests=0.001, trusted_proxies=trusted) as url,
            httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
        ):
            assert statuses(client) == wanted


def test_pages_of_allowed_origins_may_ask_and_read_the_timing(models: Path) -> None:
    ours, other = "https://app.example", "https://other.example"
    with (
        live_server(models, api_keys=LINE, cors_origins=ours) as url,
        httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        asked = {"Origin": ours, "Access-Control-Request-Method": "POST"}
        preflight = client.options("/v1/detect", headers={**asked, "Access-Control-Request-Headers": "authorization"})
        assert preflight.status_code == 200  # a browser sends no key here
        assert preflight.headers["Access-Control-Allow-Origin"] == ours
        answer = detect(client, Origin=ours, **BEARER)
        assert answer.headers["Access-Control-Allow-Origin"] == ours
        assert "Server-Timing" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        refused = detect(client, Origin=ours)  # an error, too, is for the page to read
        assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, ours)
        assert "Access-Control-Allow-Origin" not in detect(client, Origin=other, **BEARER).headers


def test_without_the_setting_no_origin_is_allowed(client: httpx2.Client) -> None:
    answer = detect(client, Origin="https://app.example", **BEARER)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
