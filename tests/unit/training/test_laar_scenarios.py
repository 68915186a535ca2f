"""LAAR's Algorithm 1 as a loop, against the three scenarios of one set of predictions."""

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from calibox_core.boxes import pairwise_iou
from calibox_core.fusion import Fusion, FusionName
from calibox_core.nms import NmsAttributes, OutScore, calibrated_nms

# Scenario: how detections are ranked, and the score that is reported.
SCENARIOS = {
    "ILC": (FusionName.CLASSIFICATION, OutScore.CLASSIFICATION),
    "LC": (FusionName.PRODUCT, OutScore.CLASSIFICATION),
    "LC+CS": (FusionName.PRODUCT, OutScore.CLASSIFICATION_CLUSTERED),
}
IOU_THRESHOLD = 0.5  # of the paper


class Kept(NamedTuple):
    """A row of the algorithm's answer."""

    anchor: int
    label: int
    score: float


def _algorithm_1(
    boxes: NDArray[np.float32], p: NDArray[np.float32], locscore: NDArray[np.float32], scenario: str
) -> list[Kept]:
    """Class by class: take the box of the highest CQS, delete what overlaps it, report P_c or the cluster's maximum."""
    answer = []
    for label in range(p.shape[1]):
        left = list(range(len(boxes)))
        quality = {a: float(p[a, label] * (locscore[a, 0] if scenario != "ILC" else 1)) for a in left}
        while left:
            m = max(left, key=lambda a: quality[a])
            left.remove(m)
            score = float(p[m, label])
            for other in list(left):
                if pairwise_iou(boxes[m : m + 1], boxes[other : other + 1])[0, 0] > IOU_THRESHOLD:
                    left.remove(other)
                    if scenario == "LC+CS":
                        score = max(score, float(p[other, label]))
            answer.append((quality[m], Kept(m, label, score)))
    return [kept for _, kept in sorted(answer, key=lambda row: -row[0])]


def _crowded(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    centre = rng.uniform(40, 200, (4, 2))[rng.integers(4, size=60)] + rng.normal(0, 6, (60, 2))
    half = rng.uniform(15, 30, (60, 2))
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    return boxes, rng.uniform(0.05, 1, (60, 3)).astype(np.float32), rng.uniform(0, 1, (60, 1)).astype(np.float32)


def _answer(predictions: tuple[NDArray[np.float32], ...], scenario: str) -> list[Kept]:
    fusion, out_score = SCENARIOS[scenario]
    found = calibrated_nms(
        *predictions,
        exponents=Fusion(name=fusion).exponents(),
        score_threshold=0.0,
        iou_threshold=IOU_THRESHOLD,
        attributes=NmsAttributes(out_score=out_score, max_detections=1000),
    )
    rows = zip(found.anchor_class.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
    return [Kept(index // 3, label, score) for index, label, score in rows]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("seed", range(5))
def test_settings_of_one_checkpoint_are_the_papers_algorithm(scenario: str, seed: int) -> None:
    predictions = _crowded(seed)
    found, expected = _answer(predictions, scenario), _algorithm_1(*predictions, scenario)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row.score for row in found] == pytest.approx([row.score for row in expected], rel=1e-6)


def test_the_scenarios_differ() -> None:
    predictions = _crowded(0)
    ilc, lc, clustered = (_answer(predictions, scenario) for scenario in SCENARIOS)
    assert [row.anchor for row in ilc] != [row.anchor for row in lc]
    assert [row.anchor for row in lc] == [row.anchor for row in clustered]
    raised = [c.score > plain.score for plain, c in zip(lc, clustered, strict=True)]
    assert any(raised)
    assert not any(c.score < plain.score for plain, c in zip(lc, clustered, strict=True))
