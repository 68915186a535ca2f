"""CalibratedNMS of any implementation against the numpy reference."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.suppression import Attributes, calibrated_nms, select_candidates
from tests.support.nms_images import NmsCase, NmsImage

# On the grid of `nms_images`: exp of ONNX Runtime, of C's library and of numpy differ by a few units in the last place
# of float32.
SCORE_TOLERANCE = 1e-6
# A key of -8 has a last place of 5e-7, and three logarithms went into it; 1e-5 is what the operator promises.
OFF_GRID_SCORE_TOLERANCE = 1e-5
DENORMAL = 1e-37  # OpenVINO makes zero of what is smaller


def assert_reference_answers(
    found: Mapping[str, NDArray[Any]], case: NmsCase, *, score_tolerance: float = SCORE_TOLERANCE
) -> None:
    """Candidates and detections of every image, and padding behind them.

    Args:
        found: the operator's outputs by name, of the whole batch.
        case: its inputs.
        score_tolerance: relative, of the reported scores.
    """
    for i, image in enumerate(case.images):
        one = {name: values[i] for name, values in found.items()}
        _compare_detections(one, image, case.attributes, score_tolerance)
        _compare_candidates(one, image, case.attributes)


def _compare_detections(
    found: Mapping[str, NDArray[Any]], image: NmsImage, attributes: Attributes, score_tolerance: float
) -> None:
    expected = calibrated_nms(
        image.boxes,
        image.p,
        image.q,
        exponents=image.exponents,
        score_threshold=image.score_threshold,
        iou_threshold=image.iou_threshold,
        attributes=attributes,
    )
    assert int(found["num_detections"]) == len(expected.scores)
    rows = attributes.max_detections
    np.testing.assert_array_equal(found["boxes"], _padded(expected.boxes, rows))
    np.testing.assert_array_equal(found["labels"], _padded(expected.labels, rows, -1))
    np.testing.assert_array_equal(found["classification_scores"], _padded(expected.classification_scores, rows))
    np.testing.assert_array_equal(found["localization_scores"], _padded(expected.localization_scores, rows))
    np.testing.assert_allclose(found["scores"], _padded(expected.scores, rows), rtol=score_tolerance, atol=DENORMAL)


def _compare_candidates(found: Mapping[str, NDArray[Any]], image: NmsImage, attributes: Attributes) -> None:
    expected = select_candidates(image.boxes, image.p, image.q, image.exponents, attributes)
    rows = attributes.pre_nms_top_k
    np.testing.assert_array_equal(found["candidate_boxes"], _padded(expected.boxes, rows))
    np.testing.assert_array_equal(found["candidate_labels"], _padded(expected.labels, rows, -1))
    np.testing.assert_array_equal(
        found["candidate_classification_scores"], _padded(expected.classification_scores, rows)
    )
    np.testing.assert_array_equal(found["candidate_localization_scores"], _padded(expected.localization_scores, rows))


def _padded(values: NDArray[Any], rows: int, pad: float = 0) -> NDArray[Any]:
    whole = np.full((rows, *values.shape[1:]), pad, values.dtype)
    whole[: len(values)] = values
    return whole
