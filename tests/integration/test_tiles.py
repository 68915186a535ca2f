"""Large images in tiles, over HTTP: what is found, what is refused, and how tiles share batches, queue and deadline."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from calibox_client import Client
from calibox_core.boxes import pairwise_iou
from tests.support.gated_engine import PATIENCE_S
from tests.support.gated_server import gated
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

SHIPPED = Path(__file__).resolve().parents[2] / "models"
LARGE = encoded(picture(width=320, height=200), "PNG")  # 128 x 96 tiles that overlap by a fifth: 3 x 3 and the whole
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[httpx2.Client]:
    with (
        live_server(models, max_tiles=30, queue_size=40) as url,
        httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        yield client


def ask(client: httpx2.Client, data: bytes = LARGE, **parameters: Any) -> dict[str, Any]:
    answer = client.post("/v1/detect", content=data, headers=PNG, params=parameters)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["results"][0])


def refusal(client: httpx2.Client, data: bytes = LARGE, **parameters: Any) -> tuple[int, str]:
    problem = client.post("/v1/detect", content=data, headers=PNG, params=parameters).json()
    return problem["status"], problem["detail"]


def found_again(objects: list[dict[str, Any]], detections: list[dict[str, Any]], shift: int) -> int:
    """How many objects, moved to the right, have a detection of their class with an IoU above a half."""
    found = 0
    for one in objects:
        boxes = np.array([d["box"] for d in detections if d["label"] == one["label"]], np.float64).reshape(-1, 4)
        moved = np.array([one["box"]]) + np.array([shift, 0, shift, 0])
        found += bool((pairwise_iou(moved, boxes) > 0.5).any())
    return found


def test_cells_that_are_too_small_in_the_whole_picture_are_found_in_its_tiles() -> None:
    """The shipped model and its own picture, twice on a canvas five times as wide, astride the borders of tiles."""
    cells = Image.open(SHIPPED / "bccd" / "1" / "example.jpg").convert("RGB")
    width, height = cells.size
    canvas = Image.new("RGB", (5 * width, height), cells.getpixel((2, 2)))
    places = (300, 1677)
    for left in places:
        canvas.paste(cells, (left, 0))
    with live_server(SHIPPED) as url, Client(url, timeout=PATIENCE_S) as client:
        objects = client.detect(encoded(cells)).as_json()["detections"]
        large = encoded(canvas)
        slow = {"timeout_ms": 1e3 * PATIENCE_S}
        whole = client.detect(large, **slow).as_json()["detections"]
        tiled = client.detect(large, tile=width, overlap=0.2, priority="high", **slow).as_json()["detections"]
    assert len(objects) > 15
    assert sum(found_again(objects, whole, left) for left in places) == 0
    assert sum(found_again(objects, tiled, left) for left in places) >= 0.9 * 2 * len(objects)


def test_an_image_that_fits_into_one_tile_is_answered_as_ever(client: httpx2.Client) -> None:
    small = encoded(picture(width=120, height=90), "PNG")
    assert ask(client, small, tile="true") == ask(client, small)
    assert ask(client, LARGE, tile=320) == ask(client, LARGE, tile="false") == ask(client, LARGE)


def test_tiles_are_found_where_they_lie_and_their_parameters_hold(client: httpx2.Client) -> None:
    sure = ask(client, score_threshold=0.6), ask(client, score_threshold=0.6, tile="true")
    assert len(sure[1]["detections"]) > len(sure[0]["detections"]) > 0
    tiled = ask(client, tile="true")
    assert (tiled["width"], tiled["height"]) == (320, 200)
    boxes = np.array([d["box"] for d in tiled["detections"]])
    assert (boxes >= 0).all()
    assert (boxes <= [320, 200, 320, 200]).all()
    scores = [d["score"] for d in tiled["detections"]]
    assert scores == sorted(scores, reverse=True)
    assert ask(client, tile="true", max_detections=2)["detections"] == tiled["detections"][:2]
    chosen = ask(client, tile="true", classes="class-1")["detections"]
    among_all = [d for d in tiled["detections"] if d["label"] == "class-1"]
    assert chosen[: len(among_all)] == among_all != []  # the other classes take no places
    high = ask(client, tile="true", score_threshold=0.5)["detections"]
    assert high
    assert all(d["score"] >= 0.5 for d in high)


def test_a_tile_says_the_same_as_its_part_of_the_picture_alone(client: httpx2.Client) -> None:
    """The lower right tile of 128 x 96, away from the other tiles' borders."""
    image = picture(width=320, height=200)
    part = ask(client, encoded(image.crop((192, 104, 320, 200)), "PNG"))["detections"]
    tiled = ask(client, tile="true")["detections"]
    inside = [d for d in part if d["box"][0] > 30 and d["box"][1] > 30 and d["score"] > 0.5]
    assert inside
    shifted = [[x1 + 192, y1 + 104, x2 + 192, y2 + 104] for x1, y1, x2, y2 in (d["box"] for d in inside)]
    boxes = np.array([d["box"] for d in tiled])
    assert (pairwise_iou(np.array(shifted), boxes).max(axis=1) > 0.5).all()


def test_images_of_one_request_are_each_cut_and_stay_in_order(client: httpx2.Client) -> None:
    small = encoded(picture(width=120, height=90, seed=3), "PNG")
    alone = [ask(client, data, tile="true") for data in (LARGE, small)]
    files = [("f", ("a.png", LARGE)), ("f", ("b.png", small)), ("f", ("c.png", LARGE))]
    answer = client.post("/v1/detect", files=files, data={"tile": "true"})
    assert answer.json()["results"] == [alone[0], alone[1], alone[0]]


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"tile": 31}, "tile must be true, false or a whole number of pixels from 32 on, got '31'"),
        ({"tile": "big"}, "tile must be true, false or a whole number of pixels from 32 on, got 'big'"),
        ({"tile": "true", "overlap": 0.95}, "overlap must be a number within 0..0.9, got '0.95'"),
        ({"overlap": 0.5}, "overlap says how tiles overlap, and this request asks for no tiles; add tile=true"),
        (
            {"tile": 32, "overlap": 0.9},
            "the image has 320 x 200 pixels and would be cut into 5530 tiles; this server cuts into at most 30: "
            "ask for a larger `tile` or less `overlap`",
        ),
    ],
)
def test_what_cannot_be_cut_is_a_sentence(client: httpx2.Client, parameters: dict[str, Any], sentence: str) -> None:
    assert refusal(client, **parameters) == (422, sentence)


def test_more_tiles_than_the_queue_holds_are_refused_with_what_to_do(client: httpx2.Client) -> None:
    files = [("f", (f"{i}.png", LARGE)) for i in range(5)]
    problem = client.post("/v1/detect", files=files, data={"tile": "true"}).json()
    assert problem["status"] == 422
    assert problem["detail"].startswith("the 5 images make 50 tiles, and this server holds at most 40 at once; send")


def test_a_broken_image_among_tiles_is_named_and_takes_nothing_with_it(client: httpx2.Client) -> None:
    files = [("f", ("a.png", LARGE)), ("f", ("b.png", LARGE[: len(LARGE) // 2]))]
    problem = client.post("/v1/detect", files=files, data={"tile": "true"}).json()
    assert (problem["status"], problem["code"]) == (422, "truncated_image")
    assert problem["detail"].startswith("image 1 (b.png) is not read")
    assert ask(client, tile="true")["detections"]


def test_tiles_share_batches_places_and_the_deadline(models: Path) -> None:
    with gated(models, max_batch=4, queue_size=12) as server, ThreadPoolExecutor(1) as callers:
        engine, client = server.engine, server.client
        expected = ask(client, tile="true")
        engine.forget()
        engine.gate.clear()
        held = callers.submit(ask, client, tile="true")
        engine.wait_for_run()
        status, sentence = refusal(client, tile="true")
        assert status == 429
        assert " of 12 places in the queue are taken" in sentence
        assert refusal(client, timeout_ms=50)[0] == 504
        engine.gate.set()
        assert held.result() == expected
        assert [len(batch.images) for batch in engine.batches] == [1, 4, 4, 1]
        engine.gate.clear()
        status, sentence = refusal(client, tile="true", timeout_ms=100)
        assert status == 504
        assert "the deadline passed" in sentence
        engine.gate.set()
        assert ask(client, tile="true") == expected
