"""Limits below HTTP: heads, addresses, slowness, connections; each with its own code, and the connection ends."""

import http.client
import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

JPEG = encoded(picture(), "JPEG")
START = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    with live_server(models, max_header_bytes=2000, max_headers=20, max_url_bytes=300, slow_grace_s=0.5) as url:
        yield url


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=PATIENCE_S) as connection:
        yield connection


def read_answer(connection: socket.socket) -> tuple[http.client.HTTPResponse, Any]:
    """One answer, and that nothing follows it: the server closes."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    document = json.loads(answer.read())
    assert connection.recv(1) == b""
    return answer, document


def refusal(url: str, *sent: bytes) -> tuple[int, str, str]:
    """Status, code and sentence that some bytes are answered with."""
    with connected(url) as connection:
        for part in sent:
            connection.sendall(part)
        answer, document = read_answer(connection)
    assert answer.getheader("Content-Type") == "application/problem+json"
    assert answer.getheader("X-Request-Id") == document["request_id"]
    assert answer.getheader("Server-Timing", "").startswith("total;dur=")
    assert answer.status == document["status"]
    return answer.status, document["code"], document["detail"]


def counted(url: str, code: str) -> bool:
    text = httpx2.get(f"{url}/metrics", timeout=PATIENCE_S).text
    return f'calibox_refused_connections_total{{code="{code}"}}' in text


def test_a_long_address_is_refused(url: str) -> None:
    status, code, detail = refusal(url, b"GET /" + b"a" * 300 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, code) == (414, "address_too_long")
    assert detail.startswith("path and query have 301 bytes; this server reads at most 300")
    assert counted(url, code)


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"X-%d: 1\r\n" % i for i in range(20)),  # 21 with Host
        b"X: " + b"a" * 2000 + b"\r\n",
        b"".join(b"X-%d: %s\r\n" % (i, b"a" * 180) for i in range(11)),
    ],
)
def test_headers_that_are_many_or_long_are_refused(url: str, headers: bytes) -> None:
    status, code, detail = refusal(url, b"GET /livez HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
    assert (status, code) == (431, "headers_too_large")
    assert detail == "this server reads at most 20 headers of together 2000 bytes"


def test_a_header_without_an_end_is_refused_while_it_comes(url: str) -> None:
    status, code, _ = refusal(url, b"GET /livez HTTP/1.1\r\nX: ", b"a" * 1500, b"a" * 1500)
    assert (status, code) == (431, "headers_too_large")


def test_a_long_body_is_no_long_head(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(START + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(JPEG) + JPEG)
        answer, document = read_answer(connection)
    assert (answer.status, len(document["results"])) == (200, 1)


def test_what_is_not_http_is_told_so(url: str) -> None:
    status, code, detail = refusal(url, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")  # a TLS greeting
    assert (status, code) == (400, "malformed")
    assert "this is not HTTP" in detail


def test_a_head_that_does_not_end_in_time_is_refused(url: str) -> None:
    status, code, detail = refusal(url, START)
    assert (status, code) == (408, "slow_request")
    assert "the headers were not complete after" in detail


def test_a_body_that_comes_too_slowly_is_refused_with_everything_that_an_answer_has(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(START + b"X-Request-Id: slow-1\r\nContent-Length: 9999999\r\n\r\n" + JPEG[:100])
        answer, document = read_answer(connection)
    assert (answer.status, document["code"], document["request_id"]) == (408, "slow_request", "slow-1")
    assert "this server wants 8192 bytes per second" in document["detail"]
    assert answer.getheader("Server-Timing") is not None
    text = httpx2.get(f"{url}/metrics", timeout=PATIENCE_S).text
    assert 'calibox_requests_total{code="slow_request"} 1.0' in text


def test_a_body_that_takes_longer_than_the_grace_but_keeps_its_rate_is_read(models: Path) -> None:
    body = JPEG + b"\0" * (20_000 - len(JPEG))
    with live_server(models, slow_grace_s=0.2, min_upload_rate=10_000) as url, connected(url) as connection:
        connection.sendall(START + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body[:-1])
        time.sleep(0.6)  # three times the grace; what has come pays for 2 s
        connection.sendall(body[-1:])
        answer, _ = read_answer(connection)
    assert answer.status == 200


def test_any_rate_is_enough_where_the_setting_is_0(models: Path) -> None:
    with live_server(models, slow_grace_s=0.1, min_upload_rate=0) as url, connected(url) as connection:
        connection.sendall(START + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(JPEG))
        time.sleep(0.5)
        connection.sendall(JPEG)
        assert read_answer(connection)[0].status == 200


def test_a_connection_too_many_is_told_so_and_the_others_go_on(models: Path) -> None:
    with live_server(models, max_connections=2) as url, connected(url) as first, connected(url) as second:
        for connection in (first, second):  # answered, so that the server has them
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in connection.recv(4096)
        with connected(url) as third:
            third.sendall(START + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG)
            answer, document = read_answer(third)
        assert (answer.status, document["code"]) == (503, "too_many_connections")
        assert answer.getheader("Retry-After") == "1"
        assert document["detail"].startswith("2 connections are open")
        first.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in first.recv(4096)


def test_a_connection_that_never_asks_is_closed_when_it_was_idle_long_enough(models: Path) -> None:
    with live_server(models, keep_alive_s=0, slow_grace_s=0.5) as url, connected(url) as connection:
        assert connection.recv(1) == b""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, cut out or doubled."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out))
        length = rng.randint(1, 12)
        kind = rng.randrange(3)
        if kind == 0:
            out[at] = rng.choice(b"\0\r\n :/%\xff9A")
        elif kind == 1 and len(out) > length + 1:
            del out[at : at + length]
        else:
            out[at:at] = out[at : at + length]
    return bytes(out)


def test_whatever_bytes_come_the_answer_is_no_failure_of_the_server(url: str) -> None:
    rng, whole = random.Random(5), START + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(JPEG) + JPEG
    statuses = set()
    for _ in range(60):
        with connected(url) as connection:
            connection.settimeout(0.2)
            try:
                connection.sendall(mutated(whole[:120], rng) + whole[120:])
                statuses.add(connection.recv(4096)[9:12])
            except (ConnectionError, TimeoutError):  # closed while the rest was on its way; or it waits for more
                continue
    assert {b"200", b"400"} <= statuses
    assert not [status for status in statuses if status.startswith(b"5")]
    assert httpx2.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200


def test_deep_json_has_its_own_code(url: str) -> None:
    answer = httpx2.post(f"{url}/v1/detect", content=b'{"image": ' + b"[" * 50 + b"]" * 50 + b"}",
                         headers={"Content-Type": "application/json"}, timeout=PATIENCE_S)  # fmt: skip
    assert (answer.status_code, answer.json()["code"]) == (400, "json_too_complex")
