"""A Ray cluster of this machine: the shipped Serve config with two replicas, and `--ray` of the commands.

The cluster takes half a minute to start, so that all of this shares one.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from calibox_client import Client, Detections, RetryPolicy
from calibox_core.dataset import CocoFolder
from tests.integration.test_deployment_proxy import free_ports
from tests.support.command_line import CommandLine, Finished
from tests.support.eval_folders import make_eval_folder
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server
from tests.support.pictures import encoded, huge_png, picture
from tests.support.ray_cluster import HAPROXY, REPLICAS, Cluster, adapted, ray_cluster

JPEG = {"Content-Type": "image/jpeg"}
LOW = {"score_threshold": "0.1"}
CORES = 4  # of which two are the replicas', whatever the machine has
IMAGES = 160  # of the load in which an actor is killed
KILLED_EVERY = 16  # answers
KILLS = 5  # at most, until one of them took a request along

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def plain(models: Path) -> Iterator[str]:
    """The server as it is everywhere."""
    with live_server(models, max_batch=1, instances=1) as url:
        yield url


@pytest.fixture(scope="module", params=[{}, pytest.param(HAPROXY, marks=pytest.mark.slow)], ids=["proxy", "haproxy"])
def cluster(models: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    (port,) = free_ports(1)
    # One image per run of the engine, so that answers are equal to the last bit.
    with ray_cluster(adapted(models, port), cores=CORES, CALIBOX_MAX_BATCH="1", **request.param) as started:
        yield started


def calibox_on(cluster: Cluster, *words: object) -> Finished:
    """A command in a process of its own, which joins the cluster: Ray reads its token once in each."""
    command = [sys.executable, "-m", "calibox_core.cli", *map(str, words)]
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def told(answer: httpx2.Response) -> tuple[int, str, Any]:
    """What an answer says, without what differs from one to the next."""
    document = answer.json()
    for name in ("timing", "request_id"):
        document.pop(name, None)
    return answer.status_code, answer.headers["content-type"], document


def asked(client: httpx2.Client) -> list[tuple[int, str, Any]]:
    """Answers to requests of every form, and to some that are refused."""
    images = [encoded(picture(seed=seed, width=200), "JPEG") for seed in range(6)]
    files = [("file", (f"{i}.jpg", image, "image/jpeg")) for i, image in enumerate(images)]
    answers = [client.post("/v1/detect", content=image, headers=JPEG, params=LOW) for image in images]
    answers += [
        client.post("/v1/detect", files=files, params={"fusion": "product", **LOW}),
        client.post("/v1/detect", content=images[0], headers=JPEG, params={"tile": "64", **LOW}),
        client.post("/v1/detect", content=b"no image", headers=JPEG),
        client.post("/v1/detect", content=huge_png(30_000, 30_000), headers={"Content-Type": "image/png"}),
        client.post("/v1/detect", content=b"\0" * (21 * 2**20), headers=JPEG),
        client.post("/v1/detect", content=images[0], headers=JPEG, params={"fusion": "sum"}),
        client.get("/v1/detect"),
        client.get("/v1/models/tiny"),
        client.get("/v1/nothing"),
        client.get("/v2/models/tiny"),
        client.get("/readyz"),
        client.get("/openapi.json"),
    ]
    return [told(answer) for answer in answers]


def test_the_cluster_answers_as_the_plain_server_does(cluster: Cluster, plain: str) -> None:
    with httpx2.Client(base_url=cluster.url, timeout=PATIENCE_S) as on_ray:
        found = asked(on_ray)
    with httpx2.Client(base_url=plain, timeout=PATIENCE_S) as client:
        expected = asked(client)
    assert [answer[0] for answer in expected] == [*[200] * 8, 415, 413, 413, 422, 405, 200, 404, 200, 200, 200]
    assert sum(len(answer[2]["results"][0]["detections"]) for answer in expected[:8]) > 50
    assert found == expected


def test_a_request_id_is_the_callers_own_and_told_once(cluster: Cluster) -> None:
    answer = httpx2.get(f"{cluster.url}/v1/models", headers={"X-Request-ID": "camera-7.42"}, timeout=PATIENCE_S)
    assert answer.headers.get_list("x-request-id") == ["camera-7.42"]
    assert "total;dur=" in answer.headers["server-timing"]


def test_streams_go_through_the_cluster(cluster: Cluster, plain: str) -> None:
    found = []
    for url in (cluster.url, plain):
        address = url.replace("http", "ws") + "/v1/stream?score_threshold=0.1"
        with connect(address, open_timeout=PATIENCE_S, compression=None) as stream:
            stream.send(encoded(picture(), "JPEG"))
            found.append(json.loads(stream.recv(timeout=PATIENCE_S)))
    assert found[0]["results"] == found[1]["results"]
    assert found[0]["results"]


def test_metrics_tell_of_every_replica(cluster: Cluster) -> None:
    text = httpx2.get(f"{cluster.url}/metrics", timeout=PATIENCE_S).text
    names = {line.split('"')[1] for line in text.splitlines() if line.startswith("calibox_uptime_seconds")}
    assert len(names) == REPLICAS
    assert all(f'calibox_queue_depth{{replica="{name}",model="tiny",version="1"}} 0.0' in text for name in names)


def test_a_killed_replica_loses_no_request_of_the_sdk(cluster: Cluster, plain: str) -> None:
    # A tenth of a second each, with eight on their way: a replica that has none of them at a moment is rare.
    pictures = [encoded(picture(seed=seed, width=4000, height=3000), "JPEG", quality=30) for seed in range(4)]
    repeats: list[str] = []
    killed: list[int] = []

    def images() -> Iterator[bytes]:
        for i in itertools.count():
            if i >= 3 * KILLED_EVERY and (repeats or len(killed) == KILLS):
                return
            yield pictures[i % len(pictures)]

    found: list[Detections] = []
    policy = RetryPolicy(attempts=50, first_pause=0.05, longest_pause=2.0, budget=1000)
    with Client(cluster.url, retries=policy, on_retry=lambda error, _: repeats.append(str(error))) as client:
        for one in client.detect_many(images(), concurrency=8, score_threshold=0.1):
            found.append(one)
            if len(found) % KILLED_EVERY == 0 and not repeats and len(killed) < KILLS:
                for replica in sorted(cluster.replicas() - set(killed))[:1]:
                    os.kill(replica, signal.SIGKILL)
                    killed.append(replica)
    with Client(plain) as client:
        expected = [client.detect(image, score_threshold=0.1).detections for image in pictures]
    assert [one.detections for one in found] == [expected[i % len(expected)] for i in range(len(found))]
    assert len(expected[0]) > 5
    # Ray's proxy says so, HAProxy ends the connection.
    lost = "the replica that had this request ended", "broke the connection"
    assert any(words in text for text in repeats for words in lost)
    assert not cluster.replicas() & set(killed)


@pytest.mark.slow
def test_detect_finds_with_actors_what_a_server_finds(
    calibox: CommandLine, cluster: Cluster, models: Path, plain: str, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(12):
        (folder / f"{seed:02}.jpg").write_bytes(encoded(picture(seed=seed), "JPEG"))
    (folder / "05.jpg").write_bytes(b"no picture")
    options = ("--score-threshold", 0.1, "--fusion", "product")
    output = tmp_path / "found.jsonl"
    actors = ("--ray", "--bundle", models / "tiny/1", "--output", output, "--actors", 2)
    done = calibox_on(cluster, "detect", folder, *options, *actors)
    served = calibox("detect", folder, *options, "--server", plain, "--json")
    assert (done.code, served.code) == (1, 1)  # one file is no picture
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    failed = lines.pop(5)
    assert failed["code"] == "unsupported_media_type"
    assert failed["image"].endswith("05.jpg")
    assert lines == [json.loads(line) for line in served.out.splitlines()]
    assert sum(len(line["detections"]) for line in lines) > 20
    assert f"{folder / '05.jpg'}: the image is " in done.err
    assert "1 of 12 failed" in done.err
    assert [path.name for path in tmp_path.iterdir() if "found" in path.name] == ["found.jsonl"]


@pytest.mark.slow
def test_files_of_a_killed_actor_are_looked_at_again(cluster: Cluster, models: Path, tmp_path: Path) -> None:
    images = tmp_path / "pictures"
    images.mkdir()
    bodies = [encoded(picture(seed=seed, width=2400, height=1800), "JPEG") for seed in range(4)]
    for i in range(IMAGES):
        (images / f"{i:03}.jpg").write_bytes(bodies[i % len(bodies)])
    output = tmp_path / "found.jsonl"
    words = ["detect", "--ray", "--bundle", models / "tiny/1", "--actors", "2", "--output", output, images]
    command = [sys.executable, "-m", "calibox_core.cli", *words]
    with subprocess.Popen(command, env=cluster.environment, stderr=subprocess.PIPE, text=True) as process:
        part = tmp_path / "found.jsonl.part"
        until = time.monotonic() + PATIENCE_S
        while not (part.exists() and part.stat().st_size) and time.monotonic() < until:
            time.sleep(0.02)
        (first, *_) = sorted(cluster.processes("ray::MapWorker"))
        os.kill(first, signal.SIGKILL)
        assert not output.exists()
        assert process.wait(PATIENCE_S) == 0, process.stderr and process.stderr.read()
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(line.pop("image")).name for line in lines] == [f"{i:03}.jpg" for i in range(IMAGES)]
    assert lines == [lines[i % len(bodies)] for i in range(IMAGES)]
    assert lines[0]["detections"]


@pytest.mark.slow
def test_eval_measures_with_actors_what_it_measures_of_a_server(
    calibox: CommandLine, cluster: Cluster, models: Path, plain: str, tmp_path: Path
) -> None:
    data: CocoFolder = make_eval_folder(tmp_path / "data", models / "tiny/1", images=9)
    where = ("--images", data.images, "--annotations", data.annotations_path("val"), "--json")
    results = [tmp_path / "actors.json", tmp_path / "server.json"]
    actors = ("--ray", "--bundle", models / "tiny/1", "--actors", 2)
    done = calibox_on(cluster, "eval", *where, *actors, "--output", results[0])
    served = calibox("eval", *where, "--server", plain, "--output", results[1])
    assert (done.code, served.code) == (0, 0), done.err
    assert json.loads(results[0].read_text()) == json.loads(results[1].read_text())
    summaries = [json.loads(finished.out) for finished in (done, served)]
    assert summaries[0]["AP"] == summaries[1]["AP"] > 0
    assert summaries[0]["detections"] == summaries[1]["detections"] > 50
    assert summaries[0]["latency_ms"]["max"] > 0
