"""Images that are named by address, over real sockets; loopback addresses are let through for these tests alone."""

import asyncio
import gzip
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme

from calibox_server.errors import (
    AddressNotAllowedError,
    FetchFailedError,
    FetchTimeoutError,
    ServiceError,
    TooManyBytesError,
    UnsupportedMediaTypeError,
)
from calibox_server.fetch.addresses import is_public
from calibox_server.fetch.fetcher import Fetcher, FetchLimits, Room
from calibox_server.fetch.hosts import AllowedHosts
from calibox_server.service import Service
from calibox_server.settings import Settings
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server, running, server_url
from tests.support.picture_host import Call, Host, picture_host
from tests.support.pictures import encoded, picture

JPEG = encoded(picture(), "JPEG")
LIMITS = FetchLimits(bytes=100_000, seconds=PATIENCE_S, redirects=2, at_once=4)
NAME = "pictures.test"


def fetcher(host: Host, *, name: str = NAME, scheme: str = "http", **changes: Any) -> Fetcher:
    """Resolves every name to this machine, and lets that pass."""

    async def resolve(_: str, __: int) -> Sequence[str]:
        return ["127.0.0.1"]

    limits = FetchLimits(**{name: changes.pop(name, getattr(LIMITS, name)) for name in FetchLimits.__slots__})
    hosts = AllowedHosts.parse(changes.pop("hosts", (f"{scheme}://{name}:{host.port}",)))
    return Fetcher(hosts, limits, **{"resolve": resolve, "is_allowed": lambda _: True, **changes})


def fetch(of: Fetcher, url: str, room: int = 10**6) -> bytes:
    return asyncio.run(of.fetch(url, Room(room, "the images of this request have together")))


def refused(of: Fetcher, url: str, kind: type[ServiceError], sentence: str, **more: Any) -> None:
    with pytest.raises(kind, match=sentence):
        fetch(of, url, **more)


def test_the_bytes_of_an_address_come_and_nothing_of_the_caller_goes() -> None:
    with picture_host(lambda call: call.answer(JPEG)) as host:
        assert fetch(fetcher(host), f"http://{NAME}:{host.port}/a%20b.jpg?c=d#e") == JPEG
    (call,) = host.calls
    assert call.path == "/a%20b.jpg?c=d"
    assert call.headers.pop("User-Agent").startswith("calibox/")
    assert call.headers == {
        "Host": f"{NAME}:{host.port}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with picture_host(lambda call: call.answer(JPEG)) as host:
        assert fetch(fetcher(host), f"http://{NAME}:{host.port}/") == JPEG


def test_a_certificate_is_checked_for_the_name() -> None:
    authority = trustme.CA()
    contexts = {}
    for name in (NAME, "other.test"):
        contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(contexts[name])
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    for name, tls in contexts.items():
        with picture_host(lambda call: call.answer(JPEG), tls) as host:
            url, mine = f"https://{NAME}:{host.port}/", fetcher(host, scheme="https", certificates=trusted)
            if name == NAME:
                assert fetch(mine, url) == JPEG
                refused(fetcher(host, scheme="https"), url, FetchFailedError, "ConnectError")  # unknown authority
            else:
                refused(mine, url, FetchFailedError, "ConnectError")


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """A resolver that answers otherwise the second time (DNS rebinding) is not asked a second time."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    seen: list[str] = []

    async def rebinding(_: str, __: int) -> Sequence[str]:
        return next(answers)

    def note(address: str) -> bool:
        seen.append(address)
        return True

    with picture_host(lambda call: call.answer(JPEG)) as host:
        assert fetch(fetcher(host, resolve=rebinding, is_allowed=note), f"http://{NAME}:{host.port}/") == JPEG
    assert seen == ["127.0.0.1"]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["1.1.1.1", "10.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], []])
def test_a_name_with_any_address_that_is_not_public_is_never_connected_to(addresses: list[str]) -> None:
    async def resolve(_: str, __: int) -> Sequence[str]:
        return addresses

    with picture_host(lambda call: call.answer(JPEG)) as host:
        closed = fetcher(host, resolve=resolve, is_allowed=is_public)
        refused(closed, f"http://{NAME}:{host.port}/", AddressNotAllowedError, "public addresses only")
    assert not host.calls


def test_an_address_that_does_not_answer_is_passed_over() -> None:
    async def resolve(_: str, __: int) -> Sequence[str]:
        return ["127.0.0.9", "127.0.0.1"]  # the host listens at the second

    with picture_host(lambda call: call.answer(JPEG)) as host:
        assert fetch(fetcher(host, resolve=resolve), f"http://{NAME}:{host.port}/") == JPEG


def test_the_systems_resolver_is_judged_too() -> None:
    with picture_host(lambda call: call.answer(JPEG)) as host:
        for name in ("localhost", "127.0.0.1"):
            closed = fetcher(host, name=name, resolve=None, is_allowed=is_public)
            refused(closed, f"http://{name}:{host.port}/", AddressNotAllowedError, "public addresses only")
            assert fetch(fetcher(host, name=name, resolve=None), f"http://{name}:{host.port}/") == JPEG


def test_a_name_without_addresses_is_a_sentence() -> None:
    async def nothing(_: str, __: int) -> Sequence[str]:
        raise OSError("no such name")

    with picture_host(lambda call: call.answer(JPEG)) as host:
        refused(fetcher(host, resolve=nothing), f"http://{NAME}:{host.port}/", FetchFailedError, "has no address")


def redirecting(goal: Callable[[Call], str]) -> Callable[[Call], None]:
    def serve(call: Call) -> None:
        where = goal(call)
        if where:
            call.answer(b"", 302, Location=where)
        else:
            call.answer(JPEG)

    return serve


def test_redirects_are_followed_as_far_as_allowed() -> None:
    with picture_host(redirecting(lambda call: str(int(call.path[1:]) - 1) if call.path != "/0" else "")) as host:
        url = f"http://{NAME}:{host.port}"
        assert fetch(fetcher(host), f"{url}/2") == JPEG
        refused(fetcher(host), f"{url}/3", FetchFailedError, "redirected more than 2 times")


@pytest.mark.parametrize(
    "goal",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:1/",
        "http://[::1]/",
        "https://elsewhere.test/",
        "file:///etc/passwd",
        "gopher://x",
        "",
    ],
)
def test_a_redirect_to_elsewhere_is_refused(goal: str) -> None:
    with picture_host(lambda call: call.answer(b"", 302, Location=goal)) as host:
        refused(fetcher(host), f"http://{NAME}:{host.port}/", AddressNotAllowedError, "fetches from|begins with https")
    assert len(host.calls) == 1


def test_a_redirect_to_an_allowed_name_with_a_private_address_is_refused() -> None:
    async def resolve(name: str, _: int) -> Sequence[str]:
        return ["127.0.0.1"] if name == NAME else ["10.0.0.7"]

    with picture_host(lambda call: call.answer(b"", 307, Location="http://inside.test/")) as host:
        mine = fetcher(
            host,
            hosts=(f"http://{NAME}:{host.port}", "http://inside.test"),
            resolve=resolve,
            is_allowed=lambda address: address != "10.0.0.7",
        )
        refused(mine, f"http://{NAME}:{host.port}/", AddressNotAllowedError, "inside.test does not lead to public")


def test_what_is_too_long_ends_at_the_limit() -> None:
    def endless(call: Call) -> None:
        call.head()
        call.send(JPEG[:100])
        while True:
            call.send(bytes(10_000))

    with picture_host(endless) as host:
        refused(fetcher(host), f"http://{NAME}:{host.port}/", TooManyBytesError, "more than 100000 bytes")
        assert host.left.wait(PATIENCE_S)  # the connection was closed: nobody reads to the end of it
    with picture_host(lambda call: call.head(Content_Length="100001")) as host:
        refused(fetcher(host), f"http://{NAME}:{host.port}/", TooManyBytesError, "more than 100000 bytes")
    with picture_host(lambda call: call.answer(JPEG)) as host:
        room = len(JPEG) - 1
        refused(fetcher(host), f"http://{NAME}:{host.port}/", TooManyBytesError, "request have together", room=room)


def test_what_is_no_image_ends_with_its_first_bytes() -> None:
    def endless(call: Call) -> None:
        call.head()
        while True:
            call.send(b"<html>" * 1000)

    with picture_host(endless) as host:
        refused(fetcher(host), f"http://{NAME}:{host.port}/", UnsupportedMediaTypeError, "not an image that is read")
        assert host.left.wait(PATIENCE_S)


@pytest.mark.parametrize("phase", ["before the head", "within the body"])
def test_what_is_too_slow_ends_in_time(phase: str) -> None:
    stop = threading.Event()

    def trickle(call: Call) -> None:
        if phase == "within the body":
            call.head(Content_Length="100")
            call.send(b"x")
        stop.wait(PATIENCE_S)

    with picture_host(trickle) as host:
        try:
            refused(fetcher(host, seconds=0.2), f"http://{NAME}:{host.port}/", FetchTimeoutError, "within 0.2 s")
        finally:
            stop.set()


def test_compressed_bodies_are_refused_before_they_grow() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    with picture_host(lambda call: call.answer(bomb, Content_Encoding="gzip")) as host:
        refused(fetcher(host), f"http://{NAME}:{host.port}/", FetchFailedError, "sent it compressed")


def test_what_is_no_answer_with_an_image_is_a_sentence() -> None:
    for status, body in ((404, b"no"), (204, b""), (200, b""), (500, JPEG)):
        with picture_host(lambda call, s=status, b=body: call.answer(b, s)) as host:  # type: ignore[misc]
            refused(fetcher(host), f"http://{NAME}:{host.port}/", FetchFailedError, "not 200|empty body")
    with picture_host(lambda call: call.send(b"\0" * 500)) as host:
        refused(fetcher(host), f"http://{NAME}:{host.port}/", FetchFailedError, "RemoteProtocolError")
    with picture_host(lambda call: call.answer(JPEG)) as host:
        port, gone = host.port, fetcher(host)
    refused(gone, f"http://{NAME}:{port}/", FetchFailedError, "ConnectError")


def test_no_more_are_fetched_at_once_than_allowed() -> None:
    busy, most, lock = 0, 0, threading.Lock()

    def count(call: Call) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.05)
        with lock:
            busy -= 1
        call.answer(JPEG)

    async def many(of: Fetcher, url: str) -> list[bytes]:
        room = Room(10**6, "")
        return await asyncio.gather(*(of.fetch(url, room) for _ in range(6)))

    with picture_host(count) as host:
        assert asyncio.run(many(fetcher(host, at_once=2), f"http://{NAME}:{host.port}/")) == [JPEG] * 6
    assert most == 2


@contextmanager
def serving(models: Path, host: Host, **settings: Any) -> Iterator[httpx2.Client]:
    """A server that fetches from this host, whose name leads to loopback."""
    service = Service.load(Settings(models=models, log_level="warning", **settings))
    service.fetcher = fetcher(host)
    with running(service) as server, httpx2.Client(base_url=server_url(server), timeout=PATIENCE_S) as client:
        yield client


def results(answer: httpx2.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_an_address_gives_the_answer_of_its_image_in_every_form(models: Path) -> None:
    other = encoded(picture(seed=3), "PNG")
    with (
        picture_host(lambda call: call.answer(other if call.path == "/other" else JPEG)) as host,
        serving(models, host) as client,
    ):
        url = f"http://{NAME}:{host.port}"
        first = results(client.post("/v1/detect", content=JPEG, headers={"Content-Type": "image/jpeg"}))[0]
        second = results(client.post("/v1/detect", content=other, headers={"Content-Type": "image/png"}))[0]
        one = client.post("/v1/detect", json={"url": url})
        assert results(one) == [first]
        assert one.json()["timing"]["fetch"] > 0
        assert "fetch;dur=" in one.headers["Server-Timing"]
        assert results(client.post("/v1/detect", json={"urls": [f"{url}/other", url]})) == [second, first]
        form = [("url", (None, f"{url}/other")), ("f", ("a.jpg", JPEG)), ("url", (None, url))]
        assert results(client.post("/v1/detect", files=form)) == [second, first, first]


def test_refusals_are_problem_documents_and_parameters_are_checked_first(models: Path) -> None:
    with picture_host(lambda call: call.answer(b"no picture at all")) as host, serving(models, host) as client:
        url = f"http://{NAME}:{host.port}/"
        for body, status, code in (
            ({"url": "https://elsewhere.test/"}, 403, "address_not_allowed"),
            ({"url": 7}, 400, "malformed"),
            ({"url": url, "image": "AAAA"}, 400, "malformed"),
            ({"urls": []}, 400, "malformed"),
            ({"urls": [url] * 33}, 400, "malformed"),
            ({"url": url, "alpha": "x"}, 422, "invalid_parameter"),
        ):
            answer = client.post("/v1/detect", json=body)
            assert (answer.status_code, answer.json()["code"]) == (status, code), body
        assert not host.calls
        answer = client.post("/v1/detect", json={"url": url})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_the_requests_own_deadline_holds_while_it_fetches(models: Path) -> None:
    stop = threading.Event()
    with picture_host(lambda _: bool(stop.wait(PATIENCE_S)) and None) as host, serving(models, host) as client:
        try:
            answer = client.post("/v1/detect", json={"url": f"http://{NAME}:{host.port}/", "timeout_ms": 100})
        finally:
            stop.set()
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline")


def test_fetching_counts_as_an_image_of_its_own(models: Path) -> None:
    with (
        picture_host(lambda call: call.answer(JPEG)) as host,
        serving(models, host, rate_images=0.003, rate_burst_s=1000) as client,  # three at once, then none for long
    ):
        body = {"url": f"http://{NAME}:{host.port}/"}
        assert client.post("/v1/detect", json=body).status_code == 200
        refused_ = client.post("/v1/detect", json=body)
        assert (refused_.status_code, refused_.json()["code"]) == (429, "rate_limited")


def test_without_a_list_of_hosts_nothing_is_fetched(models: Path) -> None:
    with live_server(models) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        answer = client.post("/v1/detect", json={"url": "https://images.example.com/a.jpg"})
    assert (answer.status_code, answer.json()["code"]) == (403, "address_not_allowed")
    assert "this server fetches no images" in answer.json()["detail"]
