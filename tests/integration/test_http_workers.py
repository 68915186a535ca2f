"""Several processes behave as one: the same answers and counts, and no request lost when one of them is killed."""

import base64
import contextlib
import http.client
import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from websockets.sync.client import connect

from calibox_client import Client, RetryPolicy
from calibox_server.engine import CandidateOutput
from tests.support.gated_engine import PATIENCE_S
from tests.support.gated_server import metric, wait_until
from tests.support.http_workers import Workers, both_tell, fresh_client, http_workers
from tests.support.live_server import live_server
from tests.support.oip import OUTPUTS, letterboxed, same, triton_http
from tests.support.pictures import encoded, picture
from tests.support.reloads import JPEG, RAW, Askers, ask, put, two_networks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several processes share memory as Linux does")
PLACES = 16
LARGE = encoded(picture(width=320, height=200), "PNG")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    root, networks = two_networks(tmp_path_factory.mktemp("networks"))
    put(root, networks[0])
    return root, networks


@pytest.fixture(scope="module")
def workers(networks: tuple[Path, list[Path]]) -> Iterator[Workers]:
    with http_workers(networks[0], "--admin", "--queue-size", str(PLACES), "--timeout-ms", "60000") as workers:
        yield workers


@pytest.fixture(scope="module")
def client(workers: Workers) -> Iterator[httpx2.Client]:
    with fresh_client(workers.url) as client:
        yield client


def answers(url: str) -> list[Any]:
    """What a server answers to requests of every kind, without times."""
    with fresh_client(url) as client:
        files = [("file", (f"{i}.png", encoded(picture(seed=i)), "image/png")) for i in range(3)]
        document = {"image": base64.b64encode(JPEG).decode(), "fusion": "power", "alpha": 0.5, "max_detections": 7}
        replies = [
            client.post("/v1/detect", content=JPEG, headers=RAW),
            client.post("/v1/detect", files=files, data={"score_threshold": "0.2"}),
            client.post("/v1/detect", json=document),
            client.post("/v1/detect", content=LARGE, headers={"Content-Type": "image/png"}, params={"tile": "true"}),
            client.post("/v1/detect", content=b"no image", headers=RAW),
            client.post("/v1/detect", content=JPEG, headers=RAW, params={"model": "other"}),
            client.get("/v1/models"),
            client.get("/v2/models/tiny"),
            client.get("/readyz"),
            client.get("/nowhere"),
        ]
    return [(reply.status_code, _without_what_differs(reply.json())) for reply in replies]


def _without_what_differs(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in ("timing", "request_id")}


def streamed(url: str) -> list[Any]:
    with connect(url.replace("http", "ws") + "/v1/stream", compression=None) as socket:
        socket.send(JPEG)
        return list(json.loads(socket.recv(timeout=PATIENCE_S))["results"])


def test_requests_of_every_kind_are_answered_as_by_one_process(
    workers: Workers, networks: tuple[Path, list[Path]]
) -> None:
    with live_server(networks[0], queue_size=PLACES) as alone:
        for _ in range(2):  # on connections to both front ends
            assert answers(workers.url) == answers(alone)
        assert streamed(workers.url) == streamed(alone)
        images = letterboxed(picture(), picture(seed=1))
        with triton_http(workers.url[7:]) as far, triton_http(alone[7:]) as near:
            assert same(far.infer(images=images), near.infer(images=images))
            wanted = far.outputs([*OUTPUTS, *CandidateOutput._fields])
            told = [
                one.client.infer("tiny", one.inputs({"images": images}), outputs=wanted) for one in (far, near, far)
            ]
            for name in (*OUTPUTS, *CandidateOutput._fields):
                one, other, again = (answer.as_numpy(name) for answer in told)
                np.testing.assert_array_equal(one, other)
                np.testing.assert_array_equal(again, other)
            assert (told[0].as_numpy("candidate_labels") >= 0).any()


def test_connections_are_dealt_out_evenly(workers: Workers) -> None:
    port = int(workers.url.rpartition(":")[2])
    fronts = ("front-1", "front-2")
    before = {name: workers.sockets(name) for name in fronts}
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S) for _ in range(10)]
    for connection in connections:
        connection.request("GET", "/livez")
        assert connection.getresponse().read() == b'{"status":"alive"}'
    # Connections of earlier tests may still be closing: what one front end has fewer of those, it has more of these.
    after = {name: workers.sockets(name) for name in fronts}
    assert sum(after.values()) - sum(before.values()) == 10
    assert abs(after["front-1"] - after["front-2"]) <= 1
    for connection in connections:
        connection.close()


def test_server_timing_adds_up_and_metrics_count_what_clients_counted(workers: Workers, client: httpx2.Client) -> None:
    names = ("calibox_requests_total", "calibox_images_total", "calibox_stage_seconds_count", "calibox_batch_size_sum")
    before = {name: metric(client, name) for name in names}
    with fresh_client(workers.url) as other, ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: other.post("/v1/detect", content=JPEG, headers=RAW), range(24)))
    assert Counter(reply.status_code for reply in replies) == {200: 24}
    assert {name: metric(client, name) - count for name, count in before.items()} == dict(
        zip(names, (24, 24, 4 * 24, 24), strict=True)
    )
    for reply in replies:
        times = reply.json()["timing"]
        assert 0 < times["engine"] < times["total"]
        assert times["decode"] + times["queue"] + times["engine"] <= times["total"] + 0.003  # each was rounded
    processes = {"engine", "front-1", "front-2"}
    assert all(metric(client, "process_resident_memory_bytes", process=name) > 0 for name in processes)
    assert metric(client, "calibox_build_info") == 1


def test_places_are_counted_over_all_processes(workers: Workers, client: httpx2.Client) -> None:
    body = {"images": [base64.b64encode(JPEG).decode()] * PLACES}  # takes the whole queue

    with fresh_client(workers.url) as other, ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: other.post("/v1/detect", json=body), range(24)))
    counts = Counter(reply.status_code for reply in replies)
    assert counts.keys() == {200, 429}
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert f"of {PLACES} places" in refused.json()["detail"]
    assert int(refused.headers["Retry-After"]) >= 1
    assert ask(client)  # and nothing stays taken


def test_a_reload_under_load_reaches_every_front_end(
    client: httpx2.Client, networks: tuple[Path, list[Path]], workers: Workers
) -> None:
    root, bundles = networks
    first = ask(client)
    askers = Askers(client)
    found = [first]
    try:
        for bundle in (bundles[1], bundles[0], bundles[1], bundles[0]):
            put(root, bundle)
            change = client.post("/v1/models/tiny/reload")
            assert change.json() == {"name": "tiny", "loaded": ["1"], "unloaded": []}
            seen = []
            for _ in range(2):  # new connections go to both front ends
                with fresh_client(workers.url) as other:
                    seen.append(ask(other))
            assert seen[0] == seen[1] != found[-1]
            found.append(seen[0])
            askers.wait_for_more()
    finally:
        answered = askers.end()
    assert found[0] == found[2] == found[4]
    assert all(answer in found for answer in answered)
    refused = client.post("/v1/models/none/load")
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_model")


def test_when_the_engine_process_is_killed_requests_wait_for_its_successor(
    workers: Workers, client: httpx2.Client
) -> None:
    before, expected = metric(client, "calibox_requests_total"), ask(client)
    askers = Askers(client)
    askers.wait_for_more()
    workers.kill("engine")
    wait_until(lambda: client.get("/readyz").status_code == 503)
    away = client.get("/readyz")
    assert (away.json()["code"], away.headers["Retry-After"]) == ("engine_away", "1")
    assert client.get("/livez").status_code == 200
    assert client.get("/v2/health/ready").status_code == 503
    wait_until(lambda: client.get("/readyz").status_code == 200)
    askers.wait_for_more()
    answered = askers.end()
    assert answered == [expected] * len(answered)
    assert metric(client, "calibox_requests_total") - before == len(answered) + 1


def test_an_engine_process_that_hangs_is_killed_and_requests_go_to_its_successor(
    networks: tuple[Path, list[Path]],
) -> None:
    with (
        http_workers(networks[0], "--hang-s", "2", "--timeout-ms", "60000") as workers,
        fresh_client(workers.url) as client,
    ):
        expected, hung = ask(client), workers.pids()["engine"]
        askers = Askers(client)
        askers.wait_for_more()
        workers.stop("engine")
        wait_until(lambda: workers.pids().get("engine", hung) != hung)
        wait_until(lambda: client.get("/readyz").status_code == 200)
        askers.wait_for_more()
        answered = askers.end()
        assert answered == [expected] * len(answered)
        ends = metric(client, "calibox_process_ends_total", process="engine")
    assert ends >= 1


def test_when_a_front_end_is_killed_retries_hide_it(workers: Workers, client: httpx2.Client) -> None:
    askers, retried, stop = 4, list[BaseException](), threading.Event()

    def detect() -> list[int]:
        counts = []
        with Client(workers.url, on_retry=lambda error, _: retried.append(error), retries=RetryPolicy()) as sdk:
            while not stop.is_set():
                counts.append(len(sdk.detect(JPEG)))
        return counts

    with ThreadPoolExecutor(askers) as pool:
        calls = [pool.submit(detect) for _ in range(askers)]
        try:
            wait_until(lambda: all(workers.sockets(name) for name in workers.pids()))
            killed = workers.kill("front-1")
            wait_until(lambda: workers.whole_without(killed))
            wait_until(lambda: metric(client, "calibox_requests_in_flight") >= 1)
        finally:
            stop.set()
        counts = [count for call in calls for count in call.result()]
    assert len(set(counts)) == 1
    assert len(retried) <= askers
    assert ask(client)


def test_connections_that_a_killed_front_end_had_not_received_go_to_another(workers: Workers) -> None:
    wait_until(lambda: len(workers.pids()) == 3 and both_tell(workers.url))
    with ThreadPoolExecutor(6) as pool, contextlib.ExitStack() as stack:
        one, *others = [stack.enter_context(fresh_client(workers.url)) for _ in range(7)]
        expected = ask(one)
        workers.stop("front-1")  # every other new connection waits for it
        asked = [pool.submit(ask, other) for other in others]
        wait_until(lambda: sum(call.done() for call in asked) > 1)
        assert not all(call.done() for call in asked)
        killed = workers.kill("front-1")
        assert [call.result(PATIENCE_S) for call in asked] == [expected] * len(asked)
    wait_until(lambda: workers.whole_without(killed))


def test_under_load_a_stop_loses_no_request_that_was_taken(networks: tuple[Path, list[Path]]) -> None:
    ends: list[tuple[int, str | None] | None] = []  # of each request: status and Retry-After; None: nobody listened

    def send_until_nobody_listens(url: str) -> None:
        while None not in ends:
            try:
                with fresh_client(url) as client:
                    reply = client.post("/v1/detect", content=JPEG, headers=RAW)
            except httpx2.TransportError:  # refused, or reset where the socket closed in that moment
                ends.append(None)
            else:
                ends.append((reply.status_code, reply.headers.get("Retry-After")))

    with http_workers(networks[0], "--drain-s", "20", "--log-level", "info", "--log-format", "json") as workers:
        below = workers.pids()
        callers = [threading.Thread(target=send_until_nobody_listens, args=[workers.url]) for _ in range(4)]
        for caller in callers:
            caller.start()
        wait_until(lambda: len(ends) >= 20)
        workers.process.send_signal(signal.SIGTERM)
        _, errors = workers.process.communicate(timeout=PATIENCE_S)
        for caller in callers:
            caller.join()
        assert workers.process.returncode == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in below.values())
    assert set(ends) <= {(200, None), (503, "1"), None}
    lines = [json.loads(line) for line in errors.splitlines()]
    answered = [line for line in lines if line.get("path") == "/v1/detect" and line["status"] == 200]
    assert len(answered) == ends.count((200, None)) >= 20
    assert len([line for line in lines if line["event"] == "settings" and line["source"] == "option"]) == 1
