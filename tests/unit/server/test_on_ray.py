"""What is ours under Ray, without a cluster: shares, the proxy's answers, metrics of replicas, files to outcomes."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from calibox_core.errors import BundleError
from calibox_server.errors import ParameterError, UnknownModelError
from calibox_server.on_ray.detector import Files, Outcome
from calibox_server.on_ray.offline import check, images_per_task
from calibox_server.on_ray.proxy import LostReplicaMiddleware, middlewares, once
from calibox_server.on_ray.replica_metrics import by_replica
from calibox_server.on_ray.shares import read_settings, settings_of_share
from calibox_server.settings import Settings, SettingsError
from tests.support.bundles import make_tiny_bundle
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CALIBOX_TUNE", "CALIBOX_INSTANCES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nothing_set")
@pytest.mark.parametrize(
    ("assigned", "options", "expected"),
    [
        ({"CPU": 3.0}, {}, (3, 3, False)),
        ({"CPU": 0.5}, {}, (1, 1, False)),
        ({}, {}, (1, 1, False)),
        ({"CPU": 4.0, "GPU": 1.0}, {}, (None, 4, True)),  # cores say nothing about runs on a GPU
        ({"CPU": 3.0}, {"instances": 7, "tune": True}, (7, 3, True)),
    ],
)
def test_a_process_takes_the_cores_that_ray_gave_it(
    assigned: dict[str, float], options: dict[str, Any], expected: tuple[int | None, int, bool]
) -> None:
    settings = settings_of_share(options, assigned)
    assert (settings.instances, settings.decode_threads, settings.tune) == expected


def test_what_the_environment_says_goes_before_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIBOX_INSTANCES", "5")
    assert settings_of_share({}, {"CPU": 2.0}).instances == 5


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"grpc_port": 0}, "grpc_port"),
        ({"http_workers": 2}, "http_workers"),
        ({"tls_certificate": "server.pem"}, "tls_certificate"),
        ({"trusted_proxies": "10.0.0.1"}, "trusted_proxies"),
        ({"admin": True}, "admin"),
    ],
)
def test_settings_that_would_be_without_effect_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=f"^{named} cannot be set under Ray"):
        read_settings(options)


def test_words_of_a_command_line_are_settings_too() -> None:
    assert read_settings({"max_batch": "4", "host": "0.0.0.0"}).max_batch == 4


async def ended(scope: Scope, receive: Receive, send: Send) -> None:
    """As Ray's proxy does where a replica ended: no answer."""


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"x-request-id", b"ours"), (b"content-type", b"text/plain"), (b"X-Request-ID", b"its")]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": b"whole"})


def ask(app: Any) -> httpx2.Response:
    async def go() -> httpx2.Response:
        transport = httpx2.ASGITransport(LostReplicaMiddleware(app))
        async with httpx2.AsyncClient(transport=transport, base_url="http://ray") as client:
            return await client.post("/v1/detect", content=b"picture", headers={"X-Request-ID": "caller-1"})

    return asyncio.run(go())


def test_a_request_without_an_answer_is_told_to_come_back() -> None:
    answer = ask(ended)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert (answer.json()["code"], answer.json()["request_id"]) == ("engine_away", "caller-1")


def test_an_answer_goes_through_with_one_request_id() -> None:
    answer = ask(answers)
    assert (answer.status_code, answer.content) == (500, b"whole")
    assert answer.headers.get_list("x-request-id") == ["ours"]


def test_streams_are_left_alone() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    asyncio.run(LostReplicaMiddleware(app)({"type": "websocket"}, None, None))  # type: ignore[arg-type]
    assert seen == ["websocket"]
    assert [one.cls for one in middlewares()] == [LostReplicaMiddleware]


@given(st.lists(st.tuples(st.sampled_from([b"a", b"x-request-id", b"X-Request-Id"]), st.binary(max_size=2))))
def test_only_repeated_request_ids_are_left_out(headers: list[tuple[bytes, bytes]]) -> None:
    kept = once(headers)
    ids = [pair for pair in headers if pair[0].lower() == b"x-request-id"]
    assert [pair for pair in kept if pair[0] == b"a"] == [pair for pair in headers if pair[0] == b"a"]
    assert [pair for pair in kept if pair[0] != b"a"] == ids[:1]


def test_metrics_of_replicas_stay_apart() -> None:
    text = '# HELP a_total Images.\n# TYPE a_total counter\na_total{model="m"} 3.0\n# TYPE up gauge\nup 1.5\n'
    assert by_replica({"r1": text, "r2": text.replace("3.0", "4.0")}) == (
        "# HELP a_total Images.\n# TYPE a_total counter\n"
        'a_total{replica="r1",model="m"} 3.0\na_total{replica="r2",model="m"} 4.0\n'
        '# TYPE up gauge\nup{replica="r1"} 1.5\nup{replica="r2"} 1.5\n'
    )


@given(st.integers(1, 10**7), st.integers(1, 1000))
def test_every_file_is_in_a_task_and_no_task_is_large(files: int, actors: int) -> None:
    size = images_per_task(files, actors)
    assert 1 <= size <= 64
    assert size == 64 or -(-files // size) >= min(files, 2 * actors)  # every actor has two at least


@pytest.fixture
def files(bundle: Path) -> Iterator[Files]:
    settings = Settings(models=bundle, max_batch=1, queue_size=8, log_level="error")
    made = Files(settings, {"score_threshold": [0.1], "tile": [64]})
    yield made
    made.close()


def test_outcomes_are_what_http_would_have_said(bundle: Path, files: Files, tmp_path: Path) -> None:
    bodies = [encoded(picture(width=128, height=96, seed=seed), "JPEG") for seed in range(6)]
    bodies += [b"no picture", bodies[0][: len(bodies[0]) // 2]]
    paths = [tmp_path / f"{i}.jpg" for i in range(len(bodies))]
    for path, body in zip(paths, bodies, strict=True):
        path.write_bytes(body)
    # Two images and their six tiles each are more than a queue of eight takes, so that most are asked about again.
    found = files.detect(paths)
    with live_server(bundle, max_batch=1) as url, httpx2.Client(base_url=url) as client:
        wanted = {"score_threshold": "0.1", "tile": "64"}
        expected = [
            client.post("/v1/detect", content=body, headers={"Content-Type": "image/jpeg"}, params=wanted)
            for body in bodies
        ]
    assert [one.status for one in found] == [answer.status_code for answer in expected] == [*[200] * 6, 415, 422]
    documents = [json.loads(one.body) for one in found]
    assert [d["results"] for d in documents[:6]] == [answer.json()["results"] for answer in expected[:6]]
    assert [d["detail"] for d in documents[6:]] == [answer.json()["detail"] for answer in expected[6:]]


def test_a_file_that_cannot_be_read_is_an_outcome(files: Files, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "whole.png").write_bytes(encoded(picture()))
    found = files.detect([tmp_path / name for name in ("missing.jpg", "empty.jpg", "whole.png")])

    def detail(one: Outcome) -> str:
        return str(json.loads(one.body).get("detail"))

    assert [one.status for one in found] == [422, 422, 200]
    assert detail(found[0]) == "the file cannot be read: No such file or directory"
    assert detail(found[1]) == "the file is empty"


def test_a_wrong_bundle_or_parameter_is_told_before_anything_starts(bundle: Path, tmp_path: Path) -> None:
    check(bundle, {"fusion": ["product"], "model": ["tiny"], "version": ["1"]})
    with pytest.raises(BundleError, match="is not a bundle"):
        check(tmp_path, {})
    with pytest.raises(ParameterError, match="fusion"):
        check(bundle, {"fusion": ["sum"]})
    with pytest.raises(ParameterError, match="there is no parameter"):
        check(bundle, {"colour": ["red"]})
    with pytest.raises(UnknownModelError, match="is tiny/1, not tiny/2; name another bundle"):
        check(bundle, {"model": ["tiny"], "version": ["2"]})
