"""The operator's ONNX function, run by ONNX Runtime and by OpenVINO, against the numpy reference."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibox_core.fusion import Exponents
from calibox_core.nms import NmsAttributes, OutScore, select_candidates
from tests.support.nms_answers import OFF_GRID_SCORE_TOLERANCE, assert_reference_answers
from tests.support.nms_cases import nms_attributes, nms_cases
from tests.support.nms_images import NmsCase, NmsImage, random_boxes, scattered_image, spoil, stacked
from tests.support.operator_graph import run_operator, run_operator_in_openvino

# Compiling takes OpenVINO a second, so attributes are few and cases many. Edges of a tile of 32, and a thousand.
OPENVINO_ATTRIBUTES = [
    NmsAttributes(pre_nms_top_k=31, max_detections=7, out_score=OutScore.CLASSIFICATION_CLUSTERED),
    NmsAttributes(pre_nms_top_k=32, max_detections=100, class_agnostic=True),
    NmsAttributes(pre_nms_top_k=33, max_detections=100, out_score=OutScore.CLASSIFICATION),
    NmsAttributes(pre_nms_top_k=300, max_detections=100, candidate_floor=2.0**-6),
    NmsAttributes(pre_nms_top_k=1000, max_detections=100, out_score=OutScore.CLASSIFICATION_CLUSTERED),
]


@given(case=nms_cases())
@settings(max_examples=150)
def test_function_equals_reference(case: NmsCase) -> None:
    assert_equal_to_reference(case)


@given(case=nms_cases(anchors=(1, 31, 150)), seed=st.integers(0, 2**32 - 1))
def test_what_is_not_finite_is_no_candidate(case: NmsCase, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert_equal_to_reference(replace(case, images=tuple(spoil(rng, image) for image in case.images)))


@given(
    case=nms_cases(anchors=(400,), classes=(3, 80), images=2, attributes=nms_attributes(top_k=(1000,))),
    p_floor=st.sampled_from((0.0, 0.5)),
)
@settings(max_examples=20)
def test_a_thousand_candidates(case: NmsCase, p_floor: float) -> None:
    raised = tuple(replace(image, p=np.maximum(image.p, np.float32(p_floor))) for image in case.images)
    assert_equal_to_reference(replace(case, images=raised))


@given(seed=st.integers(0, 2**32 - 1), attributes=nms_attributes(top_k=(20, 1000)), columns=st.sampled_from((1, 4)))
def test_any_scores_whose_keys_lie_apart(seed: int, attributes: NmsAttributes, columns: int) -> None:
    """Scores that are no grid: the same indices wherever no two keys lie within 1e-6 of each other."""
    case = case_of_distinct_keys(seed, attributes, columns)
    assert_reference_answers(_run(case), case, score_tolerance=OFF_GRID_SCORE_TOLERANCE)


@given(seed=st.integers(0, 2**32 - 1), columns=st.sampled_from((1, 4)))
@settings(max_examples=30)
def test_openvino_as_it_is_built_where_keys_lie_apart(seed: int, columns: int) -> None:
    case = case_of_distinct_keys(seed, OPENVINO_ATTRIBUTES[0], columns)
    found = run_operator_in_openvino(case.attributes, stacked(case), quality_per_class=columns > 1, ties_in_order=False)
    assert_reference_answers(found, case, score_tolerance=OFF_GRID_SCORE_TOLERANCE)


def case_of_distinct_keys(seed: int, attributes: NmsAttributes, columns: int) -> NmsCase:
    """One image of 40 anchors and 4 classes, no two keys within 1e-5."""
    image = scattered_image(np.random.default_rng(seed), columns)
    everything = attributes.model_copy(update={"pre_nms_top_k": 200})
    keys = select_candidates(image.boxes, image.p, image.q, image.exponents, everything).keys
    # Logarithms carry the rounding of numbers of their own size, at most some tens here.
    assume(bool((np.diff(-keys) > 1e-5).all()))
    return NmsCase((image,), attributes)


@given(case=nms_cases(anchors=(31, 150), classes=(1, 3), images=4))
@settings(max_examples=30)
def test_an_image_answers_as_if_it_were_alone(case: NmsCase) -> None:
    together = _run(case)
    for i, image in enumerate(case.images):
        alone = _run(NmsCase((image,), case.attributes))
        for name, values in alone.items():
            np.testing.assert_array_equal(together[name][i], values[0], err_msg=name)


@pytest.mark.parametrize("out_score", OutScore)
@pytest.mark.parametrize("classes", [1, 80])
def test_nothing_above_the_floor_gives_padding_only(out_score: OutScore, classes: int) -> None:
    attributes = NmsAttributes(out_score=out_score, candidate_floor=0.5, pre_nms_top_k=70, max_detections=9)
    rng = np.random.default_rng(0)
    image = NmsImage(random_boxes(rng, 30, field=40), *_scores(rng, 30, classes, top=0.5), Exponents(1, 1, 0), 0.0, 0.5)
    found = _run(NmsCase((image, image), attributes))
    assert found["num_detections"].tolist() == [0, 0]
    assert (found["labels"] == -1).all()
    assert (found["candidate_labels"] == -1).all()
    for name in set(found) - {"labels", "candidate_labels"}:
        assert not found[name].any(), name


@pytest.mark.parametrize("anchors", [0, 12])
def test_a_batch_of_no_images_gives_no_rows(anchors: int) -> None:
    shapes = {"boxes": (0, anchors, 4), "p": (0, anchors, 3), "q": (0, anchors, 1), "fusion": (0, 3)}
    inputs = {name: np.zeros(shapes.get(name, (0,)), np.float32) for name in (*shapes, "score_threshold")}
    inputs["iou_threshold"] = inputs["score_threshold"]
    found = run_operator(NmsAttributes(pre_nms_top_k=5, max_detections=4), inputs, quality_per_class=False)
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(found, 0)
    assert found["candidate_boxes"].shape == (0, 5, 4)
    assert found["boxes"].shape == (0, 4, 4)


def test_a_late_candidate_raises_its_owner_after_every_slot_is_taken() -> None:
    """Ranked by q alone, the surest box comes last, in a later tile, and belongs to the first box."""
    count = 200
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (count, 1))
    boxes[1:-1] += 50 * np.arange(1, count - 1, dtype=np.float32)[:, None]
    p = np.full((count, 1), 0.25, np.float32)
    p[-1] = 0.875
    q = np.linspace(1, 0.1, count, dtype=np.float32)[:, None]
    attributes = NmsAttributes(
        out_score=OutScore.CLASSIFICATION_CLUSTERED, pre_nms_top_k=count, max_detections=3, candidate_floor=0.1
    )
    case = NmsCase((NmsImage(boxes, p, q, Exponents(0, 1, 0), 0.0, 0.5),), attributes)
    assert _run(case)["scores"][0].tolist() == [0.875, 0.25, 0.25]
    assert_equal_to_reference(case)


@pytest.mark.parametrize("out_score", [OutScore.CLASSIFICATION, OutScore.CLASSIFICATION_CLUSTERED])
def test_a_score_equal_to_the_threshold_is_reported(out_score: OutScore) -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], np.float32)
    p, q = np.array([[0.25], [0.5], [0.125]], np.float32), np.ones((3, 1), np.float32)
    attributes = NmsAttributes(out_score=out_score, pre_nms_top_k=10, max_detections=4)
    case = NmsCase((NmsImage(boxes, p, q, Exponents(1, 1, 0), 0.25, 0.5),), attributes)
    assert _run(case)["scores"][0].tolist() == [0.5, 0.25, 0, 0]
    assert_equal_to_reference(case)


@given(case=nms_cases(attributes=st.sampled_from(OPENVINO_ATTRIBUTES[:2]), classes=(1, 3)))
@settings(max_examples=40)
def test_openvino_equals_reference(case: NmsCase) -> None:
    assert_equal_to_reference(case, run_operator_in_openvino)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1, 80])
@pytest.mark.parametrize("attributes", OPENVINO_ATTRIBUTES, ids=lambda a: f"{a.pre_nms_top_k}-{a.out_score}")
def test_openvino_equals_reference_in_a_thousand_cases(attributes: NmsAttributes, classes: int) -> None:
    @given(case=nms_cases(attributes=st.just(attributes), classes=(classes,)), broken=st.booleans())
    @settings(max_examples=100)
    def check(case: NmsCase, broken: bool) -> None:
        rng = np.random.default_rng(len(case.images))
        images = tuple(spoil(rng, image) for image in case.images) if broken else case.images
        assert_equal_to_reference(replace(case, images=images), run_operator_in_openvino)

    check()


def assert_equal_to_reference(case: NmsCase, run: Callable[..., dict[str, NDArray[Any]]] = run_operator) -> None:
    """Of `run`, the function in one of the runtimes."""
    assert_reference_answers(run(case.attributes, stacked(case), quality_per_class=case.quality_per_class), case)


def _run(case: NmsCase) -> dict[str, NDArray[Any]]:
    return run_operator(case.attributes, stacked(case), quality_per_class=case.quality_per_class)


def _scores(
    rng: np.random.Generator, anchors: int, classes: int, *, top: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """p of at most ``top``, which is not above it, and any q."""
    return rng.random((anchors, classes), np.float32) * np.float32(top), rng.random((anchors, 1), np.float32)
