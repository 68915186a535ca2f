"""The numpy reference of CalibratedNMS against plain loops over float32 scalars.

Both sides do the same arithmetic in float32, so every comparison is exact.
"""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from calibox_core.nms import calibrated_nms, select_candidates
from tests.support.nms_cases import nms_attributes, nms_cases
from tests.support.nms_images import NmsCase, spoil
from tests.support.plain_nms import loop_candidates, loop_nms

SMALL = {"anchors": (0, 1, 2, 5, 30), "classes": (1, 2, 3), "images": 1}
TOP_K = (1, 5, 20, 1000)


@given(case=nms_cases(attributes=nms_attributes(top_k=TOP_K), **SMALL), dirty=st.booleans(), seed=st.integers(0, 2**32))
@settings(max_examples=150)
def test_reference_equals_plain_loops(case: NmsCase, dirty: bool, seed: int) -> None:
    image = case.images[0]
    if dirty:
        image = spoil(np.random.default_rng(seed), image)
    expected = loop_nms(image, case.attributes.model_dump(mode="json"))
    found = calibrated_nms(
        image.boxes,
        image.p,
        image.q,
        exponents=image.exponents,
        score_threshold=image.score_threshold,
        iou_threshold=image.iou_threshold,
        attributes=case.attributes,
    )
    assert found.anchor_class.tolist() == [row.index for row in expected]
    assert found.boxes.tolist() == [list(map(float, row.box)) for row in expected]
    assert found.labels.tolist() == [row.label for row in expected]
    assert found.classification_scores.tolist() == [float(row.p) for row in expected]
    assert found.localization_scores.tolist() == [float(row.q) for row in expected]
    assert found.scores.tolist() == [float(row.score) for row in expected]


@given(case=nms_cases(attributes=nms_attributes(top_k=TOP_K), **SMALL), seed=st.integers(0, 2**32))
def test_candidates_equal_plain_loops(case: NmsCase, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = replace(case.images[0], p=rng.random(case.images[0].p.shape, np.float32))
    found = select_candidates(image.boxes, image.p, image.q, image.exponents, case.attributes)
    expected = loop_candidates(image, case.attributes.model_dump(mode="json"))
    assert found.anchor_class.tolist() == [row.index for row in expected]
    assert found.keys.tolist() == [float(row.key) for row in expected]
