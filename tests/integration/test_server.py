"""The server over a real socket: the three request forms, answers, health, metrics, overload, disconnects."""

import base64
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from calibox_server import answers
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S
from tests.support.gated_server import Gated, gated, metric, wait_until
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

JPEG = encoded(picture(width=200, height=120), "JPEG", quality=95)
OTHER = encoded(picture(width=90, height=150, seed=1), "PNG")
RAW = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[httpx2.Client]:
    with live_server(models) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def results(answer: httpx2.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_the_three_forms_of_a_request_give_the_same_detections(client: httpx2.Client) -> None:
    parameters = {"score_threshold": "0.15", "fusion": "power", "alpha": "0.7"}
    raw = results(client.post("/v1/detect", content=JPEG, headers=RAW, params=parameters))
    form = results(client.post("/v1/detect", files={"file": ("a.jpg", JPEG)}, data=parameters))
    numbers = {"score_threshold": 0.15, "fusion": "power", "alpha": 0.7}
    document = results(client.post("/v1/detect", json={"image": b64(JPEG), **numbers}))
    assert raw == form == document
    assert len(raw[0]["detections"]) > 3


def test_many_images_are_answered_in_their_order(client: httpx2.Client) -> None:
    alone = [results(client.post("/v1/detect", content=data, headers=RAW))[0] for data in (JPEG, OTHER)]
    files = [("a", ("a.jpg", JPEG)), ("b", ("b.png", OTHER)), ("a", ("c.jpg", JPEG))]
    assert results(client.post("/v1/detect", files=files)) == [alone[0], alone[1], alone[0]]
    assert results(client.post("/v1/detect", json={"images": [b64(OTHER), b64(JPEG)]})) == alone[::-1]


def test_an_answer_has_what_the_contract_says(client: httpx2.Client) -> None:
    answer = client.post("/v1/detect", content=JPEG, headers=RAW)
    document = answer.json()
    assert document.keys() == {"model", "version", "results", "timing"}
    assert (document["model"], document["version"]) == ("tiny", "1")
    assert document["timing"].keys() == {"decode", "queue", "engine", "total"}
    (result,) = document["results"]
    assert (result["width"], result["height"]) == (200, 120)
    for detection in result["detections"]:
        assert detection.keys() == {
            "box",
            "label",
            "label_id",
            "score",
            "classification_score",
            "localization_score",
        }
        x1, y1, x2, y2 = detection["box"]
        assert 0 <= x1 <= x2 <= 200
        assert 0 <= y1 <= y2 <= 120
        assert detection["label"] == f"class-{detection['label_id'] - 1}"
        assert 0.3 <= detection["score"] <= 1
        p, q = detection["classification_score"], detection["localization_score"]
        assert detection["score"] == pytest.approx((p * q) ** 0.5, abs=1e-5)
    stages = "".join(rf"{stage};dur=[0-9.]+, " for stage in ("decode", "queue", "engine", "total"))
    assert re.fullmatch(rf"{stages}batch;desc=1", answer.headers["Server-Timing"])


def test_parameters_do_what_they_say(client: httpx2.Client) -> None:
    def ask(**parameters: Any) -> list[dict[str, Any]]:
        found = results(client.post("/v1/detect", content=JPEG, headers=RAW, params=parameters))
        return list(found[0]["detections"])

    everything = ask(score_threshold=0)
    assert [d for d in everything if d["score"] >= 0.5] == ask(score_threshold=0.5)
    assert ask(score_threshold=0, max_detections=2) == everything[:2]
    assert ask(score_threshold=0, classes="class-1,3") == [d for d in everything if d["label_id"] in (2, 3)]
    assert len(ask(score_threshold=0.1, iou_threshold=1)) >= len(ask(score_threshold=0.1, iou_threshold=0.1)) > 0
    by_classification = ask(score_threshold=0, fusion="classification")
    alike = [d["classification_score"] for d in by_classification]
    assert [d["score"] for d in by_classification] == pytest.approx(alike, abs=1e-6)  # through a logarithm and back
    assert ask(score_threshold=1) == []


def test_boxes_of_a_rotated_jpeg_are_in_the_upright_image(client: httpx2.Client) -> None:
    upright = picture(width=128, height=64)
    stored = upright.transpose(Image.Transpose.ROTATE_90)  # EXIF 6: turn by 90 degrees clockwise to see it
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"quality": 100, "subsampling": 0}
    rotated = results(client.post("/v1/detect", content=encoded(stored, "JPEG", exif=exif, **options), headers=RAW))[0]
    plain = results(client.post("/v1/detect", content=encoded(upright, "JPEG", **options), headers=RAW))[0]
    assert (rotated["width"], rotated["height"]) == (plain["width"], plain["height"]) == (128, 64)
    assert len(plain["detections"]) > 0
    best, same = plain["detections"][0], rotated["detections"][0]
    assert same["label"] == best["label"]
    # Compressed after turning, so that single pixels differ a little.
    assert np.abs(np.array(same["box"]) - best["box"]).max() < 2


def test_a_request_id_is_kept_or_made(client: httpx2.Client) -> None:
    assert client.get("/livez", headers={"X-Request-Id": "my-id.7"}).headers["X-Request-Id"] == "my-id.7"
    made = [client.get("/livez", headers={"X-Request-Id": bad}).headers["X-Request-Id"] for bad in ("a b", "x" * 200)]
    assert len({*made, "a b"}) == 3
    problem = client.post("/v1/detect", headers={"X-Request-Id": "my-id.8"})
    assert problem.json()["request_id"] == "my-id.8"


def test_health_and_models_are_told(client: httpx2.Client) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["name"], model["version"], model["state"], model["default"]) == ("tiny", "1", "ready", True)
    assert client.get("/v1/models/tiny").json()["versions"][0]["manifest"]["name"] == "tiny"


def test_the_documentation_lists_parameters_and_problems(client: httpx2.Client) -> None:
    assert client.get("/docs").status_code == 200
    operation = client.get("/openapi.json").json()["paths"]["/v1/detect"]["post"]
    assert {"fusion", "score_threshold", "classes"} <= {p["name"] for p in operation["parameters"]}
    assert operation["requestBody"]["content"].keys() >= {"image/jpeg", "multipart/form-data", "application/json"}
    assert {"200", "400", "404", "413", "415", "422", "429", "503", "504"} <= operation["responses"].keys()
    assert "too_many_bytes" in operation["responses"]["413"]["description"]


def test_metrics_count_exactly_what_was_sent(models: Path) -> None:
    with live_server(models) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        for _ in range(3):
            results(client.post("/v1/detect", content=JPEG, headers=RAW))
        results(client.post("/v1/detect", files=[("f", ("a.jpg", JPEG)), ("f", ("b.png", OTHER))]))
        for _ in range(2):
            client.post("/v1/detect", content=JPEG, headers=RAW, params={"alpha": "x"})
        client.post("/v1/detect", content=b"not an image", headers=RAW)
        counted = {
            code: metric(client, "calibox_requests_total", code=code)
            for code in ("ok", "invalid_parameter", "unsupported_media_type", "malformed")
        }
        assert counted == {"ok": 4, "invalid_parameter": 2, "unsupported_media_type": 1, "malformed": 0}
        assert metric(client, "calibox_requests_total") == 7
        assert metric(client, "calibox_images_total", model="tiny", version="1") == 5
        assert metric(client, "calibox_batch_size_sum") == 5
        assert metric(client, "calibox_stage_seconds_count", stage="total") == 4
        assert metric(client, "calibox_queue_depth") == 0


def head(length: int) -> bytes:
    """The head of a request whose body will have ``length`` bytes."""
    lines = ("POST /v1/detect HTTP/1.1", "Host: x", "Content-Type: image/jpeg", f"Content-Length: {length}", "", "")
    return "\r\n".join(lines).encode()


def detect(server: Gated, **parameters: Any) -> httpx2.Response:
    return server.client.post("/v1/detect", content=JPEG, headers=RAW, params=parameters)


def test_a_full_queue_refuses_with_retry_after_and_recovers(models: Path) -> None:
    with gated(models, queue_size=3) as server, ThreadPoolExecutor(3) as callers:
        server.engine.gate.clear()
        held = [callers.submit(detect, server) for _ in range(3)]
        wait_until(lambda: metric(server.client, "calibox_queue_depth") == 2)
        refused = detect(server)
        assert refused.status_code == 429
        assert refused.json()["code"] == "overloaded"
        assert "3 of 3 places in the queue are taken" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) >= 1
        server.engine.gate.set()
        assert [call.result().status_code for call in held] == [200] * 3
        assert detect(server).status_code == 200
        assert metric(server.client, "calibox_requests_total", code="overloaded") == 1


def test_more_images_than_there_are_places_are_refused_before_any_is_decoded(models: Path) -> None:
    with gated(models, queue_size=3) as server, ThreadPoolExecutor(1) as callers:
        server.engine.gate.clear()
        held = callers.submit(detect, server)
        server.engine.wait_for_run()
        broken = [("f", (f"{i}.jpg", b"no image")) for i in range(3)]
        refused = server.client.post("/v1/detect", files=broken)
        assert refused.json()["code"] == "overloaded"
        server.engine.gate.set()
        assert held.result().status_code == 200


def test_requests_that_wait_are_batched_and_each_keeps_its_parameters(models: Path) -> None:
    with gated(models, max_batch=4) as server, ThreadPoolExecutor(4) as callers:
        alone = [detect(server, max_detections=i + 1, score_threshold=i / 10).json()["results"] for i in range(4)]
        server.engine.forget()
        server.engine.gate.clear()
        calls = [callers.submit(detect, server, max_detections=1, score_threshold=0)]
        server.engine.wait_for_run()
        for i in range(1, 4):
            calls.append(callers.submit(detect, server, max_detections=i + 1, score_threshold=i / 10))
        wait_until(lambda: metric(server.client, "calibox_queue_depth") == 3)
        server.engine.gate.set()
        assert [call.result().json()["results"] for call in calls] == alone
        assert [len(batch.images) for batch in server.engine.batches] == [1, 3]


def test_a_client_that_disconnects_takes_its_queued_work_with_it(models: Path) -> None:
    with gated(models) as server, ThreadPoolExecutor(1) as callers:
        server.engine.gate.clear()
        first = callers.submit(detect, server)
        server.engine.wait_for_run()
        with socket.create_connection(("127.0.0.1", server.port)) as leaver:
            leaver.sendall(head(len(JPEG)) + JPEG)
            wait_until(lambda: metric(server.client, "calibox_queue_depth") == 1)
        wait_until(lambda: metric(server.client, "calibox_requests_total", code="client_closed") == 1)
        assert metric(server.client, "calibox_queue_depth") == 0
        server.engine.gate.set()
        assert first.result().status_code == 200
        assert len(server.engine.batches) == 1


def test_a_client_that_disconnects_while_it_sends_is_counted(models: Path) -> None:
    with gated(models) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as leaver:
            leaver.sendall(head(99) + b"x")
        wait_until(lambda: metric(server.client, "calibox_requests_total", code="client_closed") == 1)
        assert server.engine.batches == []


def test_a_request_whose_time_is_over_in_the_queue_ends_and_never_reaches_the_engine(models: Path) -> None:
    with gated(models) as server, ThreadPoolExecutor(1) as callers:
        server.engine.gate.clear()
        first = callers.submit(detect, server)
        server.engine.wait_for_run()
        late = detect(server, timeout_ms=50)
        assert late.status_code == 504
        assert late.json()["code"] == "deadline"
        assert "the deadline passed" in late.json()["detail"]
        server.engine.gate.set()
        assert first.result().status_code == 200
        assert len(server.engine.batches) == 1


def test_an_engine_that_fails_is_one_500_and_the_next_request_is_served(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gated(models) as server:
        with monkeypatch.context() as patch:
            patch.setattr(server.engine, "run", lambda batch: 1 / 0)
            failed = detect(server)
        assert failed.status_code == 500
        assert failed.json()["code"] == "internal_error"
        assert "division" not in failed.text
        assert detect(server).status_code == 200
        assert metric(server.client, "calibox_requests_total", code="internal_error") == 1


def test_a_stopping_server_is_not_ready_takes_nothing_new_and_finishes_what_it_has(models: Path) -> None:
    with gated(models) as server, ThreadPoolExecutor(1) as callers:
        server.engine.gate.clear()
        held = callers.submit(detect, server)
        server.engine.wait_for_run()
        server.service.stop()
        unready, refused = server.client.get("/readyz"), detect(server)
        assert (unready.status_code, unready.json()["code"]) == (503, "stopping")
        assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
        assert "Retry-After" in refused.headers
        assert server.client.get("/livez").status_code == 200
        server.engine.gate.set()
        assert held.result().status_code == 200


def test_what_is_not_finished_when_the_drain_time_is_over_is_told_so(models: Path) -> None:
    with gated(models, drain_s=0) as server, ThreadPoolExecutor(1) as callers:
        server.engine.gate.clear()
        held = callers.submit(detect, server)
        server.engine.wait_for_run()
        server.server.should_exit = True
        answer = held.result()
        assert (answer.status_code, answer.json()["code"]) == (503, "stopping")
        assert "stopped before the answer was ready" in answer.json()["detail"]
        server.engine.gate.set()


def test_an_unexpected_error_is_a_problem_document_too(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with live_server(models) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        with monkeypatch.context() as patch:
            patch.setattr(answers, "models_document", lambda models: 1 / 0)
            failed = client.get("/v1/models", headers={"X-Request-Id": "odd-1"})
        assert (failed.status_code, failed.json()["code"]) == (500, "internal_error")
        assert failed.headers["Content-Type"] == "application/problem+json"
        assert failed.headers["X-Request-Id"] == failed.json()["request_id"] == "odd-1"
        assert client.get("/v1/models").status_code == 200


def test_several_models_are_served_side_by_side(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path, name="a")
    make_tiny_bundle(tmp_path, name="b", seed=1, classes=2, height=64, width=64)
    with live_server(tmp_path) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        found = [client.post("/v1/detect", content=JPEG, headers=RAW, params={"model": m}).json() for m in "ab"]
        assert [answer["model"] for answer in found] == ["a", "b"]
        assert found[0]["results"] != found[1]["results"]
        form = client.post("/v1/detect", files={"f": ("a.jpg", JPEG)}, data={"model": "b", "version": "1"})
        assert form.json()["results"] == found[1]["results"]
        assert json.loads(client.post("/v1/detect", content=JPEG, headers=RAW).text)["code"] == "invalid_parameter"
