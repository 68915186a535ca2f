"""The kernels that ship, on the CPU, against the numpy reference and the ONNX function: generated cases.

The block sizes are those of a GPU. Scores lie on the grid of `nms_images`, so that every index must agree, with ties.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from calibox_core.nms import NmsAttributes, OutScore, select_candidates
from calibox_export.kernels.arrays import run_on_arrays
from calibox_export.kernels.library import KernelLibrary
from tests.support.nms_answers import OFF_GRID_SCORE_TOLERANCE, SCORE_TOLERANCE, assert_reference_answers
from tests.support.nms_cases import nms_attributes, nms_cases
from tests.support.nms_images import NmsCase, scattered_image, spoil, stacked
from tests.support.operator_graph import run_operator

# Around a tile of 32, and the two sizes that detectors use.
TOP_K = (31, 32, 33, 300, 1000)
CLASSES = (1, 80)
HALF = ("boxes", "p", "q")


def assert_same(library: KernelLibrary, case: NmsCase, *, score_tolerance: float = SCORE_TOLERANCE) -> None:
    """The kernels' outputs are the reference's, and the function's."""
    found = run_on_arrays(library, stacked(case), case.attributes)
    assert_reference_answers(found, case, score_tolerance=score_tolerance)
    by_function = run_operator(case.attributes, stacked(case), quality_per_class=case.quality_per_class)
    for name, values in by_function.items():
        tolerance = score_tolerance if name == "scores" else 0
        np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=0, err_msg=name)


def cases(top_k: int, classes: int) -> st.SearchStrategy[NmsCase]:
    """Batches of which some have more pairs than ``top_k`` and some fewer."""
    anchors = (0, 1, top_k, top_k + 50) if classes == 1 else (1, 40, 400)
    return nms_cases(attributes=nms_attributes(top_k=(top_k,)), anchors=anchors, classes=(classes,), images=3)


def check(library: KernelLibrary, case: NmsCase, seed: int) -> None:
    """The case, every third time with NaN and infinities in it."""
    rng = np.random.default_rng(seed)
    spoilt = tuple(spoil(rng, image) for image in case.images) if seed % 3 == 0 else case.images
    assert_same(library, replace(case, images=spoilt))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("top_k", TOP_K)
def test_kernels_equal_reference_and_function(host: KernelLibrary, top_k: int, classes: int) -> None:
    @given(case=cases(top_k, classes), seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=10)
    def holds(case: NmsCase, seed: int) -> None:
        check(host, case, seed)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("top_k", TOP_K)
def test_kernels_equal_reference_and_function_on_a_thousand_cases(
    host: KernelLibrary, top_k: int, classes: int
) -> None:
    @given(case=cases(top_k, classes), seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=120)  # ten times: 1,200 cases, at least 100 for each size
    def holds(case: NmsCase, seed: int) -> None:
        check(host, case, seed)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("top_k", [2048, 3840])
def test_the_largest_numbers_of_candidates(host: KernelLibrary, top_k: int) -> None:
    @given(case=nms_cases(attributes=nms_attributes(top_k=(top_k,)), anchors=(top_k + 300,), classes=(1, 3), images=1))
    @settings(max_examples=10)
    def holds(case: NmsCase) -> None:
        assert_same(host, case)

    holds()


def test_any_scores_whose_keys_lie_apart(host: KernelLibrary) -> None:
    """Scores that are no grid: the same indices wherever no two keys lie within 1e-5 of each other."""

    @given(seed=st.integers(0, 2**32 - 1), attributes=nms_attributes(top_k=(20, 300)), columns=st.sampled_from((1, 4)))
    @settings(max_examples=60)
    def holds(seed: int, attributes: NmsAttributes, columns: int) -> None:
        image = scattered_image(np.random.default_rng(seed), columns)
        everything = attributes.model_copy(update={"pre_nms_top_k": 200})
        keys = select_candidates(image.boxes, image.p, image.q, image.exponents, everything).keys
        assume(bool((np.diff(-keys) > 1e-5).all()))
        assert_same(host, NmsCase((image,), attributes), score_tolerance=OFF_GRID_SCORE_TOLERANCE)

    holds()


def test_half_precision_inputs_give_the_answer_of_their_values(host: KernelLibrary) -> None:
    """Each of boxes and scores in float16; the grid's numbers lose nothing by it."""

    @given(case=nms_cases(images=2), half=st.sampled_from((("boxes",), ("p", "q"), HALF)))
    @settings(max_examples=40)
    def holds(case: NmsCase, half: tuple[str, ...]) -> None:
        inputs = {
            name: values.astype(np.float16 if name in half else np.float32) for name, values in stacked(case).items()
        }
        assert_reference_answers(run_on_arrays(host, inputs, case.attributes), case)

    holds()


@pytest.mark.parametrize("out_score", OutScore)
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_an_image_answers_as_if_it_were_alone(host: KernelLibrary, out_score: OutScore, class_agnostic: bool) -> None:
    attributes = NmsAttributes(out_score=out_score, class_agnostic=class_agnostic, pre_nms_top_k=70, max_detections=9)

    @given(case=nms_cases(anchors=(31, 150), classes=(1, 3), images=4, attributes=st.just(attributes)))
    @settings(max_examples=6)
    def holds(case: NmsCase) -> None:
        together = run_on_arrays(host, stacked(case), attributes)
        for i, image in enumerate(case.images):
            alone = run_on_arrays(host, stacked(NmsCase((image,), attributes)), attributes)
            for name, values in alone.items():
                np.testing.assert_array_equal(together[name][i], values[0], err_msg=name)

    holds()
