"""Tensors of the Open Inference Protocol against a model's, and requests to pieces of work."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibox_core.bundle import read_bundle
from calibox_core.fusion import Exponents
from calibox_core.manifest import Manifest, Refinement
from calibox_core.score_map import ScoreMap
from calibox_server.engine import EngineOutput
from calibox_server.engine_runner import RawDetections
from calibox_server.errors import MalformedRequestError, ParameterError
from calibox_server.oip.inference import make_work
from calibox_server.oip.tensors import (
    GivenTensor,
    answer_tensors,
    inputs_of,
    outputs_of,
    read_tensors,
    to_array,
    values_array,
)
from calibox_server.queue import Priority
from tests.support.bundles import make_tiny_bundle
from tests.support.manifests import small_manifest

HEIGHT, WIDTH = 32, 40


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = make_tiny_bundle(tmp_path_factory.mktemp("models"), height=HEIGHT, width=WIDTH)
    return read_bundle(folder).manifest


def raw(name: str, array: NDArray[Any], datatype: str) -> GivenTensor:
    return GivenTensor(name, datatype, array.shape, memoryview(array.tobytes()))


def listed(name: str, values: Any, datatype: str, *shape: int) -> GivenTensor:
    return GivenTensor(name, datatype, shape, values_array(name, values, datatype))


def images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def test_the_tensors_of_a_model_are_those_of_its_graph(manifest: Manifest) -> None:
    assert [tuple(spec) for spec in inputs_of(manifest)] == [
        ("images", "UINT8", (-1, HEIGHT, WIDTH, 3)),
        ("fusion", "FP32", (-1, 3)),
        ("score_threshold", "FP32", (-1,)),
        ("iou_threshold", "FP32", (-1,)),
        ("refine_steps", "INT32", (-1,)),
    ]
    assert [tuple(spec) for spec in outputs_of(manifest)] == [
        ("num_detections", "INT32", (-1,)),
        ("boxes", "FP32", (-1, 50, 4)),
        ("labels", "INT32", (-1, 50)),
        ("classification_scores", "FP32", (-1, 50)),
        ("localization_scores", "FP32", (-1, 50)),
        ("scores", "FP32", (-1, 50)),
    ]


def test_binary_images_are_views_of_what_was_sent(manifest: Manifest) -> None:
    sent = memoryview(images(2).tobytes())
    found = read_tensors([GivenTensor("images", "UINT8", (2, HEIGHT, WIDTH, 3), sent)], manifest)["images"]
    assert np.array_equal(found, images(2))
    assert np.shares_memory(found, np.frombuffer(sent, np.uint8))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_binary_flat_and_nested_data_give_the_same_array(manifest: Manifest, count: int) -> None:
    pixels = images(count)
    spec = inputs_of(manifest)[0]
    forms = [
        raw("images", pixels, "UINT8"),
        listed("images", pixels.ravel().tolist(), "UINT8", *pixels.shape),
        listed("images", pixels.tolist(), "UINT8", *pixels.shape),
    ]
    for form in forms:
        found = to_array(form, spec)
        assert found.dtype == np.uint8
        assert np.array_equal(found, pixels)


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20), st.integers(0, 3))
def test_binary_floats_are_read_wherever_they_lie(values: list[float], offset: int) -> None:
    body = bytes(offset) + np.array(values, "<f4").tobytes()
    sent = GivenTensor("score_threshold", "FP32", (len(values),), memoryview(body)[offset:])
    assert to_array(sent, inputs_of(small_manifest())[2]).tolist() == values


PIXELS = images(1)
GOOD = raw("images", PIXELS, "UINT8")


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ([], "the input images is missing"),
        ([GOOD, GOOD], "input images is given twice"),
        ([GOOD, raw("mask", PIXELS, "UINT8")], "there is no input 'mask'; the model takes images, fusion, score_thr"),
        ([raw("images", PIXELS, "FP32")], "input images must be UINT8, got 'FP32'"),
        ([raw("images", PIXELS[0], "UINT8")], r"must have the shape \[B, 32, 40, 3\], got \[32, 40, 3\]"),
        ([raw("images", PIXELS[:, :8], "UINT8")], r"must have the shape \[B, 32, 40, 3\], got \[1, 8, 40, 3\]"),
        ([GivenTensor("images", "UINT8", (-1, 32, 40, 3), memoryview(b""))], r"got \[B, 32, 40, 3\]"),
        ([GivenTensor("images", "UINT8", (1,) * 99, memoryview(b""))], r"got \[1, 1, 1, 1, 1, 1, 1, 1, ...\]"),
        ([GivenTensor("images", "UINT8", (2, 32, 40, 3), GOOD.data)], "takes 7680 bytes, got 3840"),
        ([listed("images", [1, 2], "UINT8", 1, 32, 40, 3)], r"takes 3840 values, flat or nested like this, got \[2\]"),
        (
            [listed("images", PIXELS.reshape(1, 40, 32, 3).tolist(), "UINT8", 1, 32, 40, 3)],
            r"takes 3840 values, flat or nested like this, got \[1, 40, 32, 3\]",
        ),
        ([GOOD, listed("iou_threshold", [0.5, 0.5], "FP32", 2)], "iou_threshold has 2 rows for 1 images"),
        ([GOOD, listed("fusion", [1.0, 0.0], "FP32", 1, 2)], r"fusion must have the shape \[B, 3\], got \[1, 2\]"),
    ],
)
def test_a_tensor_that_does_not_fit_is_told_so(manifest: Manifest, tensors: list[GivenTensor], sentence: str) -> None:
    with pytest.raises(MalformedRequestError, match=sentence):
        read_tensors(tensors, manifest)


@pytest.mark.parametrize("values", [["1"], [None], [True], [{}], [[1], [1, 2]], [[[]], 1], [2**70], [1, "2"]])
def test_data_that_is_no_array_of_numbers_is_refused(values: list[Any]) -> None:
    with pytest.raises(MalformedRequestError, match="the data of x "):
        values_array("x", values, "FP32")


@pytest.mark.parametrize(
    ("values", "datatype", "bounds"),
    [
        ([0, 256], "UINT8", "0..255"),
        ([-1, 0], "UINT8", "0..255"),
        ([0.5], "UINT8", "0..255"),
        ([2**31], "INT32", "-2147483648..2147483647"),
        ([2**63], "INT32", "-2147483648..2147483647"),
    ],
)
def test_numbers_that_do_not_fit_their_type_are_refused(values: list[Any], datatype: str, bounds: str) -> None:
    with pytest.raises(MalformedRequestError, match=f"the data of x must be whole numbers within {bounds}"):
        values_array("x", values, datatype)


def test_a_float_beyond_its_type_is_infinite_and_refused_where_it_is_used() -> None:
    assert values_array("x", [1e300, 1], "FP32").tolist() == [np.inf, 1]


def test_lists_nested_deeper_than_arrays_can_be_are_refused() -> None:
    nested: list[Any] = []
    for _ in range(200):
        nested = [nested]
    with pytest.raises(MalformedRequestError, match="the data of x is no array"):
        values_array("x", nested, "UINT8")


def test_what_is_not_sent_is_the_models_own_default() -> None:
    steep = ScoreMap(raw=(0.0, 0.5, 1.0), mapped=(0.0, 0.2, 1.0))
    refinement = Refinement(steps=5, default_steps=2, step_size=1, early_stop=0, tolerance=0)
    manifest = small_manifest(score_map=steep, can_refine=True, refinement=refinement)
    work = make_work({"images": images(2)}, manifest, Priority.HIGH)
    assert [one.refine_steps for one in work] == [2, 2]
    for one in work:
        assert one.parameters.exponents == manifest.fusion.exponents()
        # Reported 0.3 lies an eighth of the way from 0.2 to 1, so on the graph's scale as far from 0.5 to 1.
        assert one.parameters.score_threshold == pytest.approx(0.5625)
        assert one.parameters.iou_threshold == 0.5
        assert one.parameters.priority is Priority.HIGH


def test_each_image_has_its_own_settings(manifest: Manifest) -> None:
    work = make_work(
        {
            "images": images(2),
            "fusion": np.array([[1, 0, 0], [0.5, 0.25, 4]], np.float32),
            "score_threshold": np.array([0.25, -3], np.float32),
            "iou_threshold": np.array([0, 1], np.float32),
            "refine_steps": np.array([0, 0], np.int32),
        },
        manifest,
        Priority.NORMAL,
    )
    assert [one.parameters.exponents for one in work] == [Exponents(1, 0, 0), Exponents(0.5, 0.25, 4)]
    assert [one.parameters.score_threshold for one in work] == [0.25, -3]
    assert [one.parameters.iou_threshold for one in work] == [0, 1]
    assert all(np.array_equal(one.slot, image) for one, image in zip(work, images(2), strict=True))


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("iou_threshold", [0.5, 1.5], "iou_threshold of image 1 must be within 0..1, got 1.5"),
        ("iou_threshold", [np.nan, 0.5], "iou_threshold of image 0 must be within 0..1, got nan"),
        ("score_threshold", [0, np.inf], "score_threshold of image 1 must be a finite number, got inf"),
        ("refine_steps", [1, 0], "refine_steps of image 0 must be within 0..0, got 1"),
        ("fusion", [[1, 0, 0], [-1, 0, 0]], "fusion exponents must be finite and at least 0"),
        ("fusion", [[1, 0, np.inf], [1, 0, 0]], "fusion exponents must be finite and at least 0"),
    ],
)
def test_a_value_out_of_range_is_told_with_its_image(
    manifest: Manifest, name: str, values: list[Any], sentence: str
) -> None:
    with pytest.raises(ParameterError, match=sentence):
        make_work({"images": images(2), name: np.array(values, np.float32)}, manifest, Priority.NORMAL)


def test_rows_are_padded_as_the_graph_pads_them(manifest: Manifest) -> None:
    def detections(count: int) -> RawDetections:
        boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
        scores = np.full(count, 0.5, np.float32)
        labels = np.arange(count, dtype=np.int32)
        return RawDetections(EngineOutput(np.array([count], np.int32), boxes, labels, scores, scores, scores), 0, 0)

    found = answer_tensors([detections(2), detections(0)], manifest)
    assert found["num_detections"].tolist() == [2, 0]
    assert found["boxes"][0, :3].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 0, 0, 0]]
    assert found["labels"][0, :3].tolist() == [0, 1, -1]
    assert found["labels"][1].tolist() == [-1] * 50
    assert found["scores"][0, :3].tolist() == [0.5, 0.5, 0]
    assert {name: array.dtype.str for name, array in found.items()} == {
        "num_detections": "<i4",
        "boxes": "<f4",
        "labels": "<i4",
        "classification_scores": "<f4",
        "localization_scores": "<f4",
        "scores": "<f4",
    }
    assert [array.shape[0] for array in answer_tensors([], manifest).values()] == [0] * 6
