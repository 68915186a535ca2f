"""The proxy of docker/: nginx with the file that is shipped, before two real servers. Skipped where nginx is not."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from websockets.sync.client import connect

from calibox_server.service import Service
from calibox_server.settings import Settings
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server, running
from tests.support.nginx import CONFIGURATION, nginx_path, proxy
from tests.support.pictures import encoded, picture

CALLERS = 4
RAW = {"Content-Type": "image/jpeg"}
ENOUGH = 25  # answers that are waited for in each state of the replicas


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at the moment."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def replica(models: Path) -> Service:
    return Service.load(Settings(models=models, log_level="warning"))


@dataclass
class Callers:
    """Threads that ask for detections without a pause, and repeat nothing themselves."""

    url: str
    statuses: list[int] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    more: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False

    def ask(self) -> None:
        """What one thread does."""
        body = encoded(picture(), "JPEG")
        with httpx2.Client(timeout=PATIENCE_S) as client:
            while not self.ended:
                try:
                    status = client.post(f"{self.url}/v1/detect", content=body, headers=RAW).status_code
                except httpx2.TransportError as error:
                    self.failures.append(error)
                    status = 0
                with self.more:
                    self.statuses.append(status)
                    self.more.notify_all()

    def wait_for_more(self) -> None:
        """Until ``ENOUGH`` further answers came."""
        with self.more:
            until = len(self.statuses) + ENOUGH
            assert self.more.wait_for(lambda: len(self.statuses) >= until, PATIENCE_S)


@contextmanager
def calling(url: str) -> Iterator[Callers]:
    callers = Callers(url)
    threads = [threading.Thread(target=callers.ask) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield callers
    finally:
        callers.ended = True
        for thread in threads:
            thread.join()


def test_nginx_takes_the_file_as_it_is_shipped(tmp_path: Path) -> None:
    command = [nginx_path(), "-t", "-p", tmp_path, "-e", tmp_path / "error.log", "-c", CONFIGURATION]
    tested = subprocess.run(command, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stderr


def test_a_rolling_restart_under_load_loses_no_request(models: Path, tmp_path: Path) -> None:
    front, *ports = free_ports(3)
    with ExitStack() as first, ExitStack() as second, proxy(tmp_path, front, ports) as url:
        replicas = tuple(zip((first, second), ports, strict=True))
        for stack, port in replicas:
            stack.enter_context(running(replica(models), port))
        with calling(url) as callers:
            for stack, port in replicas:
                callers.wait_for_more()
                stack.close()  # as SIGTERM does: 503 to what is new, then the port closes
                callers.wait_for_more()
                stack.enter_context(running(replica(models), port))
            callers.wait_for_more()
    assert callers.failures == []
    assert set(callers.statuses) == {200}


def test_the_proxy_hands_on_refusals_streams_and_the_true_address(models: Path, tmp_path: Path) -> None:
    (front,) = free_ports(1)
    # One request at once, and none soon after.
    limits = {"rate_requests": 0.001, "rate_burst_s": 1000, "trusted_proxies": "127.0.0.1"}
    with live_server(models) as server, live_server(models, **limits) as limited:
        with (
            proxy(tmp_path, front, [port_of(server)]) as url,
            httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
        ):
            too_long = client.post("/v1/detect", content=b"\0" * (21 * 2**20), headers=RAW)
            assert (too_long.status_code, too_long.json()["code"]) == (413, "too_many_bytes")
            assert client.get("/metrics").status_code == 404
            with connect(url.replace("http", "ws") + "/v1/stream", open_timeout=PATIENCE_S, compression=None) as stream:
                stream.send(encoded(picture(), "JPEG"))
                assert json.loads(stream.recv(timeout=PATIENCE_S))["frame"] == 0
        with proxy(tmp_path, front, [port_of(limited)]) as url:
            answers = [httpx2.get(f"{url}/v1/models", headers={"X-Forwarded-For": f"203.0.113.{i}"}) for i in range(2)]
            assert [answer.status_code for answer in answers] == [200, 429]  # one caller, whatever it says it is
