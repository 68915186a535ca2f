"""Random batches of `nms_images` that reach the operator's corners: ties of every kind, nothing at all."""

import numpy as np
from hypothesis import strategies as st

from calibox_core.nms import NmsAttributes, OutScore
from tests.support.nms_images import (
    EXPONENTS,
    IOU_THRESHOLDS,
    P_GRID,
    Q_GRID,
    SCORE_THRESHOLDS,
    NmsCase,
    NmsImage,
    random_boxes,
)


def nms_attributes(*, top_k: tuple[int, ...] = (1, 5, 63, 64, 65, 300, 1000)) -> st.SearchStrategy[NmsAttributes]:
    """Attributes around the edges of a tile of 64 candidates; one floor lies exactly on the grid of p."""
    return st.builds(
        NmsAttributes,
        out_score=st.sampled_from(OutScore),
        class_agnostic=st.booleans(),
        candidate_floor=st.sampled_from((0.0, 0.001, 2.0**-6)),
        pre_nms_top_k=st.sampled_from(top_k),
        max_detections=st.sampled_from((1, 7, 100)),
    )


@st.composite
def nms_cases(
    draw: st.DrawFn,
    *,
    attributes: st.SearchStrategy[NmsAttributes] | None = None,
    anchors: tuple[int, ...] = (0, 1, 2, 31, 64, 150, 400),
    classes: tuple[int, ...] = (1, 2, 3, 80),
    images: int = 4,
) -> NmsCase:
    """Batches of one to ``images`` images; numbers come from a drawn seed, sizes and kinds are drawn one by one."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, labels = draw(st.sampled_from(anchors)), draw(st.sampled_from(classes))
    quality_columns = draw(st.sampled_from((1, labels)))
    return NmsCase(
        images=tuple(
            NmsImage(
                boxes=random_boxes(rng, size, field=draw(st.sampled_from((8, 40, 400)))),
                p=rng.choice(P_GRID, (size, labels)),
                q=rng.choice(Q_GRID, (size, quality_columns)),
                exponents=draw(st.sampled_from(EXPONENTS)),
                score_threshold=draw(st.sampled_from(SCORE_THRESHOLDS)),
                iou_threshold=draw(st.sampled_from(IOU_THRESHOLDS)),
            )
            for _ in range(draw(st.integers(1, images)))
        ),
        attributes=draw(nms_attributes() if attributes is None else attributes),
    )
