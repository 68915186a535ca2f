"""Models that change over HTTP while clients ask: no wrong answer, no lost one."""

import itertools
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from calibox_core.bundle import MODEL_FILE
from calibox_server.memory import resident_bytes
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server
from tests.support.reloads import JPEG, RAW, Askers, ask, put, results, two_networks

SHIPPED = Path(__file__).resolve().parents[2] / "models"


@contextmanager
def served(models: Path, **settings: Any) -> Iterator[httpx2.Client]:
    with (
        live_server(models, admin=True, **settings) as url,
        httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        yield client


def command(client: httpx2.Client, verb: str, name: str = "tiny", **parameters: Any) -> httpx2.Response:
    return client.post(f"/v1/models/{name}/{verb}", params=parameters)


def reload_under_load(tmp_path: Path, *, times: int) -> None:
    root, networks = two_networks(tmp_path)
    put(root, networks[0])
    with served(root) as client:
        first = ask(client)
        put(root, networks[1])
        assert command(client, "reload").json() == {"name": "tiny", "loaded": ["1"], "unloaded": []}
        second = ask(client)
        assert first != second
        askers = Askers(client)
        try:
            for network in itertools.islice(itertools.cycle(networks), times):
                put(root, network)
                assert command(client, "reload").status_code == 200
                assert ask(client) == (first if network is networks[0] else second)  # the old one answers nobody new
                askers.wait_for_more()
        finally:
            answers = askers.end()
        assert all(answer in (first, second) for answer in answers)
        assert first in answers
        assert second in answers


def fail_to_reload_under_load(tmp_path: Path, *, times: int) -> None:
    folder = make_tiny_bundle(tmp_path)
    with served(tmp_path) as client:
        before = ask(client)
        (folder / MODEL_FILE).write_bytes(b"cut short")
        askers = Askers(client)
        try:
            for _ in range(times):
                refused = command(client, "reload")
                assert (refused.status_code, refused.json()["code"]) == (422, "load_failed")
                assert "sha256 differs" in refused.json()["detail"]
                askers.wait_for_more()
        finally:
            answers = askers.end()
        assert answers == [before] * len(answers)


def test_reloads_under_load_lose_no_answer_and_give_no_wrong_one(tmp_path: Path) -> None:
    reload_under_load(tmp_path, times=20)


def test_failed_reloads_under_load_change_nothing(tmp_path: Path) -> None:
    fail_to_reload_under_load(tmp_path, times=20)


@pytest.mark.slow
def test_200_reloads_and_200_failed_ones_under_load(tmp_path: Path) -> None:
    reload_under_load(tmp_path / "good", times=200)
    fail_to_reload_under_load(tmp_path / "bad", times=200)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell their memory otherwise")
def test_the_memory_of_models_that_are_replaced_comes_back() -> None:
    """The shipped model takes about 60 MB; without giving pages back the process grew by 200 MB in 20 reloads."""
    with served(SHIPPED, log_level="error") as client:
        for _ in range(5):
            command(client, "reload", "bccd")
        before = resident_bytes()
        for _ in range(20):
            assert command(client, "reload", "bccd").status_code == 200
        assert resident_bytes() - before < 60e6


def test_32_threads_load_and_unload_and_every_answer_is_right_or_says_that_the_model_is_away(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    make_tiny_bundle(tmp_path, name="other", seed=1)
    with served(tmp_path) as client, ThreadPoolExecutor(32) as callers:
        right = {name: ask(client, model=name) for name in ("tiny", "other")}

        def call(number: int) -> None:
            name = ("tiny", "other")[number % 2]
            verb = ("load", "unload", "detect", "detect")[number // 2 % 4]
            if verb == "detect":
                found = client.post("/v1/detect", content=JPEG, headers=RAW, params={"model": name})
                if found.status_code == 404:
                    assert found.json()["code"] == "unknown_model"
                else:
                    assert results(found) == right[name]
            else:
                assert command(client, verb, name).status_code in (200, 404)  # 404: unloaded already

        for done in [callers.submit(call, number) for number in range(64)]:
            done.result()
        for name in right:
            assert command(client, "load", name).status_code == 200
        assert {name: ask(client, model=name) for name in right} == right


def test_the_life_of_a_model_over_http(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    with served(tmp_path) as client:
        assert command(client, "unload").json() == {"name": "tiny", "loaded": [], "unloaded": ["1"]}
        gone = client.post("/v1/detect", content=JPEG, headers=RAW)
        assert (gone.status_code, gone.json()["code"]) == (404, "unknown_model")
        assert client.get("/v1/models").json() == {"models": []}
        assert client.get("/readyz").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert command(client, "load", version="1").json()["loaded"] == ["1"]
        assert len(ask(client)[0]["detections"]) > 0
        unknown = command(client, "load", "cars")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_model")
        assert "the folder has no model 'cars'; it has tiny" in unknown.json()["detail"]


def test_triton_s_repository_documents(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    (make_tiny_bundle(tmp_path, version="2", seed=1) / MODEL_FILE).write_bytes(b"")
    with served(tmp_path) as client:
        whole = client.post("/v2/repository/index").json()
        assert [(row["name"], row["version"], row["state"]) for row in whole] == [
            ("tiny", "1", "READY"),
            ("tiny", "2", "UNAVAILABLE"),
        ]
        assert "sha256 differs" in whole[1]["reason"]
        ready = client.post("/v2/repository/index", json={"ready": True}).json()
        assert [row["version"] for row in ready] == ["1"]
        assert client.post("/v2/repository/models/tiny/unload", json={}).status_code == 200
        assert client.post("/v2/repository/index", json={"ready": True}).json() == []
        failed = client.post("/v2/repository/models/tiny/load")
        assert (failed.status_code, failed.json().keys()) == (422, {"error"})
        assert "tiny/2: " in failed.json()["error"]
        assert len(ask(client)[0]["detections"]) > 0  # tiny/1 came up all the same
        assert client.post("/v2/repository/models/cars/load").status_code == 404
        assert client.post("/v2/repository/index", content=b"{").status_code == 400


def test_nobody_changes_models_unless_the_settings_allow_it(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    with live_server(tmp_path) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        for path in ("/v1/models/tiny/unload", "/v1/models/tiny/reload", "/v2/repository/models/tiny/unload"):
            assert client.post(path).status_code == 404
        assert len(ask(client)[0]["detections"]) > 0
