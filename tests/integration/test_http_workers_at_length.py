"""Several processes: what is killed again and again, and the surfaces that a short test leaves out."""

import contextlib
import re
import signal
import socket
import ssl
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme

from calibox_server.keys import make_key
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S
from tests.support.gated_server import metric, wait_until
from tests.support.http_workers import fresh_client, http_workers
from tests.support.live_server import live_server, serve_command
from tests.support.oip import letterboxed, same, triton_grpc, triton_http
from tests.support.pictures import picture
from tests.support.reloads import JPEG, RAW, Askers, ask, put, two_networks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="several processes share memory as Linux does"),
]
KILLS = 10


def is_ready(client: httpx2.Client) -> bool:
    """Whether both front ends are: each of two new connections goes to another."""
    with fresh_client(str(client.base_url)) as one, fresh_client(str(client.base_url)) as other:
        return [who.get("/readyz").status_code for who in (one, other)] == [200, 200]


def test_kills_of_the_engine_process_under_load_lose_nothing(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    with (
        http_workers(tmp_path, "--timeout-ms", "60000") as workers,
        fresh_client(workers.url) as client,
    ):
        expected = ask(client)
        askers = Askers(client, 8)
        for _ in range(KILLS):
            askers.wait_for_more()
            workers.kill("engine")
            wait_until(lambda: client.get("/readyz").status_code == 503)
            wait_until(lambda: is_ready(client))
        askers.wait_for_more()
        answered = askers.end()
        assert answered == [expected] * len(answered)
        assert metric(client, "calibox_requests_total") == len(answered) + 1
        assert metric(client, "calibox_requests_total", code="ok") == len(answered) + 1


def test_reloads_and_kills_together_give_no_wrong_answer(tmp_path: Path) -> None:
    root, networks = two_networks(tmp_path)
    put(root, networks[0])
    with (
        http_workers(root, "--admin", "--timeout-ms", "60000") as workers,
        fresh_client(workers.url) as client,
    ):
        found = [ask(client)]
        askers = Askers(client)
        for turn in range(20):
            put(root, networks[(turn + 1) % 2])
            assert client.post("/v1/models/tiny/reload").status_code == 200
            found.append(ask(client))
            if turn % 5 == 4:
                workers.kill("engine")
                wait_until(lambda: client.get("/readyz").status_code == 503)
                wait_until(lambda: is_ready(client))
            askers.wait_for_more()
        answered = askers.end()
        assert found == [found[0], found[1]] * 10 + [found[0]]
        assert all(answer in found[:2] for answer in answered)


def test_keys_rates_and_https_are_those_of_one_server(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    authority = trustme.CA()
    certificate = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    key, line = make_key("ann")
    options = ("--api-keys", line, "--rate-requests", "0.01", "--rate-burst-s", "1000")  # ten, and hardly more
    with http_workers(tmp_path, "--tls-certificate", str(certificate), *options) as workers:
        assert workers.url.startswith("http")
        url = "https" + workers.url.removeprefix("https").removeprefix("http")

        def status(headers: dict[str, str]) -> int:
            with httpx2.Client(base_url=url, verify=context, timeout=PATIENCE_S) as client:
                return client.post("/v1/detect", content=JPEG, headers=RAW | headers).status_code

        assert status({}) == 401
        counts = Counter(status({"X-API-Key": key}) for _ in range(16))  # new connections, to each front end in turn
    assert counts == {200: 10, 429: 6}


def test_grpc_and_http_answer_alike(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    images = letterboxed(picture(), picture(seed=1))
    with http_workers(tmp_path, "--grpc-port", str(port)) as workers, live_server(tmp_path) as alone:
        with triton_http(workers.url[7:]) as far, triton_http(alone[7:]) as near:
            expected = near.infer(images=images)
            assert same(far.infer(images=images), expected)
        with triton_grpc(f"127.0.0.1:{port}") as client:
            assert same(client.infer(images=images), expected)
        with fresh_client(workers.url) as http:
            assert metric(http, "calibox_images_total") == 4


def test_a_folder_that_is_watched_reaches_every_front_end(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path / "models")
    with http_workers(tmp_path / "models", "--watch-s", "0.2") as workers:
        make_tiny_bundle(tmp_path / "models", name="second")

        def names() -> list[list[str]]:
            told = [httpx2.get(workers.url + "/v1/models", timeout=PATIENCE_S).json() for _ in range(2)]
            return [[model["name"] for model in document["models"]] for document in told]

        wait_until(lambda: names() == [["second", "tiny"]] * 2)


def test_what_cannot_be_served_is_one_sentence_and_status_1(tmp_path: Path) -> None:
    def fails(*options: str) -> str:
        with serve_command("--models", str(tmp_path), "--port", "0", "--http-workers", "2", *options) as process:
            output, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, output, errors.count("\n")) == (1, "", 1)
        return errors

    assert fails().startswith("error: no bundle that can be served was found in ")
    make_tiny_bundle(tmp_path)
    assert "tls_certificate" in fails("--tls-certificate", str(tmp_path / "none.pem"))


def test_nothing_survives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    with http_workers(tmp_path) as workers:
        below = workers.pids()
        workers.process.kill()
        workers.process.wait()
        wait_until(lambda: not any(_runs(pid) for pid in below.values()))


def test_a_second_interrupt_waits_for_nobody(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    with http_workers(tmp_path, "--drain-s", "1000") as workers:
        host, port = re.findall(r"[\d.]+", workers.url)
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as held:
            held.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
            with fresh_client(workers.url) as client:
                wait_until(lambda: metric(client, "calibox_requests_in_flight") == 2)  # it, and the question
            workers.process.send_signal(signal.SIGINT)
            wait_until(lambda: httpx2.get(workers.url + "/readyz", timeout=PATIENCE_S).status_code == 503)
            workers.process.send_signal(signal.SIGINT)
            workers.process.wait(PATIENCE_S)


def _runs(pid: int) -> Any:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
