"""Both clients against a real server with a small real bundle."""

import asyncio
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calibox_client import ApiError, AsyncClient, Client, Detections, RetryPolicy, ServerUnreachableError
from tests.support.bundles import make_tiny_bundle
from tests.support.live_server import live_server

PIXELS = np.random.default_rng(5).integers(0, 256, (120, 200, 3), np.uint8)
ALL = {"score_threshold": 0.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in two versions, and another that is damaged."""
    root = tmp_path_factory.mktemp("models")
    make_tiny_bundle(root, version="1")
    make_tiny_bundle(root, version="2", seed=1)
    damaged = make_tiny_bundle(root, name="damaged")
    (damaged / "model.onnx").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    """A running server; one image per run of the engine, so that answers are equal to the last bit."""
    with live_server(models, max_batch=1, max_bytes=1_000_000) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """A blocking client of it."""
    with Client(url) as opened:
        yield opened


def png(pixels: Any = PIXELS, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def same(found: Detections, other: Detections) -> bool:
    return found.detections == other.detections and (found.width, found.height) == (other.width, other.height)


def test_every_form_of_an_image_gets_the_same_answer(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "cells.png"
    path.write_bytes(png())
    first = client.detect(path, **ALL)
    assert len(first) > 5
    for image in (str(path), path.read_bytes(), PIXELS, Image.open(path)):
        assert same(client.detect(image, **ALL), first)
    assert all(same(found, first) for found in client.detect([path, PIXELS, png()], **ALL))


def test_results_are_of_the_image_and_in_range(client: Client) -> None:
    found = client.detect(PIXELS, **ALL)
    assert (found.width, found.height, found.model, found.version) == (200, 120, "tiny", "2")
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [200, 120, 200, 120]).all()
    for scores in (found.scores, found.classification_scores, found.localization_scores):
        assert ((scores >= 0) & (scores <= 1)).all()
    # The manifest's fusion is geometric with alpha 0.5.
    expected = np.sqrt(found.classification_scores * found.localization_scores)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    assert (np.diff(found.scores) <= 1e-6).all()
    assert set(found.labels) <= {"class-0", "class-1", "class-2"}
    assert [f"class-{label_id - 1}" for label_id in found.label_ids] == list(found.labels)
    assert found.timing["total"] > 0


def test_the_async_client_gets_what_the_blocking_one_gets(client: Client, url: str) -> None:
    images = [np.roll(PIXELS, 10 * n, axis=1) for n in range(6)]

    async def ask() -> list[Detections]:
        async with AsyncClient(url) as opened:
            assert await opened.ready()
            assert [m.version for m in await opened.models() if m.ready] == ["2", "1"]
            return await asyncio.gather(*(opened.detect(image, **ALL) for image in images))

    for found, image in zip(asyncio.run(ask()), images, strict=True):
        assert same(found, client.detect(image, **ALL))


def test_parameters_reach_the_model(client: Client) -> None:
    everything = client.detect(PIXELS, **ALL)
    limit = float(np.median(everything.scores))
    assert len(client.detect(PIXELS, score_threshold=limit)) == int((everything.scores >= np.float32(limit)).sum())
    assert client.detect(PIXELS, max_detections=3, **ALL).detections == everything.detections[:3]
    assert set(client.detect(PIXELS, classes=["class-1"], **ALL).labels) == {"class-1"}
    assert set(client.detect(PIXELS, classes=[1, "class-2"], **ALL).labels) <= {"class-0", "class-2"}
    by_class = client.detect(PIXELS, fusion="classification", **ALL)
    assert (np.diff(by_class.classification_scores) <= 0).all()
    by_place = client.detect(PIXELS, fusion="localization", **ALL)
    assert (np.diff(by_place.localization_scores) <= 1e-6).all()
    assert not same(by_class, by_place)
    apart = client.detect(PIXELS, iou_threshold=0.0, **ALL)
    assert len(apart) < len(client.detect(PIXELS, iou_threshold=1.0, **ALL))
    for fusion, parameter in (("geometric", "alpha"), ("power", "alpha"), ("gaussian", "sigma")):
        values = [client.detect(PIXELS, fusion=fusion, **{parameter: value}, **ALL) for value in (0.1, 0.9)]  # type: ignore[arg-type]
        assert not same(*values)
    assert client.detect(PIXELS, version=1).version == "1"
    assert client.detect(PIXELS, model="tiny", timeout_ms=60_000).model == "tiny"


def test_parameters_of_a_list_travel_with_it(client: Client) -> None:
    found = client.detect([PIXELS, PIXELS], version="1", max_detections=2, classes=["class-0", 2], **ALL)
    alone = client.detect(PIXELS, version="1", max_detections=2, classes=["class-0", 2], **ALL)
    assert all(same(one, alone) for one in found)


@pytest.mark.parametrize(
    ("image", "parameters", "status", "code"),
    [
        (b"no image", {}, 415, "unsupported_media_type"),
        (png()[:3000], {}, 422, "truncated_image"),
        (png(), {"alpha": float("nan")}, 422, "invalid_parameter"),
        (png(), {"score_threshold": 1.5}, 422, "invalid_parameter"),
        (png(), {"classes": ["unicorn"]}, 422, "invalid_parameter"),
        (png(), {"model": "absent"}, 404, "unknown_model"),
        (png(), {"model": "damaged"}, 404, "unknown_model"),
        (png() + bytes(1_000_000), {}, 413, "too_many_bytes"),
    ],
)
def test_refusals_carry_the_servers_problem(
    url: str, image: bytes, parameters: dict[str, Any], status: int, code: str
) -> None:
    retries: list[BaseException] = []
    with Client(url, on_retry=lambda error, _: retries.append(error)) as client, pytest.raises(ApiError) as caught:
        client.detect(image, **parameters)
    error = caught.value
    assert (error.status, error.code) == (status, code)
    assert error.request_id
    assert error.problem["detail"] == error.detail
    assert retries == []


def test_models_and_manifest(client: Client) -> None:
    models = client.models()
    assert [(m.name, m.version, m.ready, m.default) for m in models] == [
        ("tiny", "2", True, True),
        ("tiny", "1", True, False),
        ("damaged", "1", False, False),
    ]
    assert models[0].labels == {1: "class-0", 2: "class-1", 3: "class-2"}
    assert client.manifest("tiny")["version"] == "2"
    assert client.manifest("tiny", "1")["version"] == "1"
    with pytest.raises(ApiError, match="unicorn"):
        client.manifest("unicorn")
    assert client.ready()


def test_a_picture_that_lies_on_its_side_is_measured_and_drawn_upright(client: Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG", exif=exif)
    found = client.detect(stream.getvalue(), **ALL)
    assert (found.width, found.height) == (120, 200)
    assert found.draw(stream.getvalue()).size == (120, 200)


def test_a_server_that_is_gone_is_told_with_its_address(models: Path) -> None:
    with live_server(models) as address:
        pass
    with Client(address, retries=RetryPolicy(attempts=2, first_pause=0.01)) as client:
        assert not client.ready()
        with pytest.raises(ServerUnreachableError, match=address):
            client.detect(PIXELS)


def test_an_overloaded_server_answers_everyone_in_the_end(models: Path) -> None:
    """One place in the queue, twelve callers: those who were refused come back and are served."""
    patient = RetryPolicy(attempts=100, first_pause=0.02, longest_pause=0.1)

    async def ask(address: str) -> list[Detections]:
        async with AsyncClient(address, retries=patient) as client:
            return await asyncio.gather(*(client.detect(PIXELS, **ALL) for _ in range(12)))

    with live_server(models, queue_size=1) as address:
        answers = asyncio.run(ask(address))
    assert len(answers) == 12
    assert all(len(found) == len(answers[0]) for found in answers)


def test_many_threads_share_a_client(client: Client) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(partial(client.detect, **ALL), [PIXELS] * 12))
    assert all(same(found, answers[0]) for found in answers)
