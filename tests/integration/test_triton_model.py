"""The model that `calibox export --triton` writes around a graph, in a Triton that is played; answers are the server's.

A real Triton: test_triton_served.py.
"""

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray

from calibox_core.bundle import read_bundle
from calibox_core.errors import BundleError
from calibox_core.score_map import ScoreMap
from calibox_export.triton.repository import write_repository
from calibox_export.triton.run import layout_of
from tests.support.bundles import make_tiny_bundle
from tests.support.fake_triton import FakeTriton, InferenceResponse, Request, TritonError, column, fake_triton
from tests.support.live_server import live_server
from tests.support.manifests import small_point
from tests.support.pictures import encoded, huge_png, picture

PICTURES = [
    encoded(picture(width=200, height=120), "JPEG"),
    encoded(picture(width=90, height=150, seed=1)),
    encoded(picture(width=128, height=96, seed=2), "WEBP"),
]
# Names and values as `POST /v1/detect` takes them, and the type that config.pbtxt gives them.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"score_threshold": 0.05, "iou_threshold": 0.7},
    {"fusion": "product", "max_detections": 3},
    {"fusion": "power", "alpha": 0.7, "score_threshold": 0.123456789},
    {"operating_point": "sure"},
    {"fusion": "gaussian", "sigma": 0.3, "classes": "class-2,class-0", "refine": 0},
]
DTYPES: dict[str, Any] = dict.fromkeys(("fusion", "classes", "operating_point"), np.object_)
DTYPES |= dict.fromkeys(("max_detections", "refine"), np.int32)
TENSORS = ("image_size", "num_detections", "boxes", "labels", "scores", "classification_scores", "localization_scores")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    # A score map that is not the identity: it applies to scores, and inverted to thresholds.
    score_map = ScoreMap(raw=(0.0, 0.4, 1.0), mapped=(0.0, 0.6, 0.95))
    point = small_point("sure", score_threshold=0.2, class_thresholds={"class-1": 0.6})
    make_tiny_bundle(root, score_map=score_map, schema_version=2, operating_points=(point,))
    return root


@pytest.fixture(scope="module")
def repository(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(read_bundle(models / "tiny" / "1"), folder, layout_of("cpu", 1, 4))
    return folder


@pytest.fixture
def triton(repository: Path) -> Iterator[FakeTriton]:
    with fake_triton(repository, "tiny") as fake:
        yield fake


@pytest.fixture
def model(triton: FakeTriton) -> Iterator[Any]:
    made = triton.detect_model()
    yield made
    made.finalize()


@pytest.fixture(scope="module")
def plain(models: Path) -> Iterator[httpx2.Client]:
    with live_server(models) as url, httpx2.Client(base_url=url, timeout=60) as client:
        yield client


def inputs(images: list[bytes], **settings: Any) -> dict[str, NDArray[Any]]:
    """A request's tensors, the same settings for each image."""
    sent = {"image": column(images)}
    for name, value in settings.items():
        text = value.encode() if isinstance(value, str) else value
        sent[name] = column([text] * len(images), DTYPES.get(name, np.float64))
    return sent


def ask(model: Any, *requests: tuple[dict[str, NDArray[Any]], tuple[str, ...]]) -> list[InferenceResponse]:
    found: list[InferenceResponse] = asyncio.run(model.execute([Request(*one) for one in requests]))
    return found


def answers(response: InferenceResponse) -> list[Any]:
    assert not response.has_error(), response.error().message()
    return [json.loads(one)["results"][0] for one in response.tensors["answer"].as_numpy().reshape(-1)]


def refused(response: InferenceResponse) -> tuple[str, str]:
    return response.error().code(), response.error().message()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_an_answer_is_the_servers_to_the_last_digit(settings: dict[str, Any], model: Any, plain: httpx2.Client) -> None:
    found = answers(ask(model, (inputs(PICTURES, **settings), ("answer",)))[0])
    expected = [plain.post("/v1/detect", content=one, params=settings).json() for one in PICTURES]
    assert found == [document["results"][0] for document in expected]
    assert sum(len(one["detections"]) for one in found) > 3


def test_each_image_of_a_request_has_its_own_settings(model: Any) -> None:
    one, two = ({"score_threshold": 0.05, "classes": "class-0"}, {"score_threshold": 0.4, "classes": "class-1"})
    both = inputs(PICTURES[:2], **one)
    both["score_threshold"] = column([0.05, 0.4], np.float64)
    both["classes"] = column([b"class-0", b"class-1"])
    mixed = ask(model, (both, ("answer",)))[0]
    apart = [
        ask(model, (inputs([data], **settings), ("answer",)))[0]
        for data, settings in zip(PICTURES[:2], (one, two), strict=True)
    ]
    assert answers(mixed) == [answers(response)[0] for response in apart]


def test_tensors_hold_what_the_document_says(model: Any) -> None:
    response = ask(model, (inputs(PICTURES, score_threshold=0.1), ("answer", *TENSORS)))[0]
    arrays = {name: response.tensors[name].as_numpy() for name in TENSORS}
    for image, document in enumerate(answers(response)):
        assert arrays["image_size"][image].tolist() == [document["width"], document["height"]]
        count = int(arrays["num_detections"][image, 0])
        rows = document["detections"]
        assert count == len(rows) > 0
        # A float32 and the shortest decimal that means it.
        for name, key in (("boxes", "box"), ("scores", "score"), ("localization_scores", "localization_score")):
            assert np.array_equal(arrays[name][image, :count], np.array([row[key] for row in rows], np.float32))
            assert not arrays[name][image, count:].any()
        assert [f"class-{label}" for label in arrays["labels"][image, :count]] == [row["label"] for row in rows]
        assert (arrays["labels"][image, count:] == -1).all()


def test_only_what_was_asked_for_is_made(model: Any) -> None:
    responses = ask(model, (inputs(PICTURES[:1]), ("answer",)), (inputs(PICTURES[:1]), ("scores", "num_detections")))
    assert [sorted(response.tensors) for response in responses] == [["answer"], ["num_detections", "scores"]]


def test_images_go_to_the_graph_one_by_one_and_their_rows_come_to_the_host(model: Any, triton: FakeTriton) -> None:
    ask(model, (inputs(PICTURES), ("answer",)))
    assert [len(asked.inputs[0].as_numpy()) for asked in triton.asked] == [1, 1, 1]
    assert {asked.preferred_memory for asked in triton.asked} == {("cpu", 0)}
    assert {asked.request_id for asked in triton.asked} == {"seventeen"}


BAD = {
    "a value": ({"score_threshold": 2.0}, "score_threshold must be a number within 0..1, got 2.0"),
    "a name": ({"fusion": "sum"}, "fusion must be one of"),
    "a whole number": ({"max_detections": 51}, "max_detections must be a whole number within 1..50, got 51"),
    "a class": ({"classes": "dog"}, "classes must be among class-0, class-1, class-2"),
    "refinement": ({"refine": 2}, "tiny/1 cannot refine its boxes"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_setting_that_the_server_refuses_is_refused_by_the_same_sentence(
    what: str, model: Any, plain: httpx2.Client
) -> None:
    settings, sentence = BAD[what]
    code, said = refused(ask(model, (inputs(PICTURES[:1], **settings), ("answer",)))[0])
    body = {"image": base64.b64encode(PICTURES[0]).decode(), **settings}
    assert (code, said) == (TritonError.INVALID_ARG, plain.post("/v1/detect", json=body).json()["detail"])
    assert sentence in said


def test_what_is_no_image_is_told_and_the_others_of_the_batch_are_answered(model: Any, triton: FakeTriton) -> None:
    responses = ask(
        model,
        (inputs([PICTURES[0], b"nothing"]), ("answer",)),
        (inputs([PICTURES[0]]), ("answer",)),
        (inputs([huge_png(20_000, 20_000)]), ("answer",)),
        ({"image": column([PICTURES[0]]), "fusion": column([b"\xff"])}, ("answer",)),
    )
    assert refused(responses[0])[1].startswith("image 2 is not read: ")
    assert len(answers(responses[1])) == 1
    assert "400000000 pixels" in refused(responses[2])[1]
    assert refused(responses[3])[1] == "fusion must be text in UTF-8, got b'\\xff'"
    assert len(triton.asked) == 1  # none of the others reached the graph


def test_what_the_graphs_model_refuses_comes_back_with_its_code(model: Any, triton: FakeTriton) -> None:
    triton.refusal = TritonError("Exceeds maximum queue size", TritonError.UNAVAILABLE)
    for images in (1, 3):
        response = ask(model, (inputs(PICTURES[:images]), ("answer",)))[0]
        assert refused(response) == (TritonError.UNAVAILABLE, "Exceeds maximum queue size")


def test_a_failure_of_its_own_is_logged_and_keeps_its_details(
    model: Any, triton: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "graph", None)
    code, said = refused(ask(model, (inputs(PICTURES[:1]), ("answer",)))[0])
    assert (code, said) == (TritonError.INTERNAL, "the model failed on this request; the server's log has the reason")
    assert "AttributeError" in triton.asked[-1]


def test_another_graph_beside_it_is_not_served(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    copy.mkdir()
    for path in sorted(repository.rglob("*")):
        target = copy / path.relative_to(repository)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    with fake_triton(copy, "tiny") as fake:
        (copy / "tiny/1/model.onnx").write_bytes(b"another")
        with pytest.raises(BundleError, match=r"model\.onnx is not the graph of this model \(sha256 differs\)"):
            fake.detect_model()
        (copy / "tiny/1/model.onnx").unlink()  # as where Triton fetched the models from a store, each by itself
        fake.detect_model().finalize()
