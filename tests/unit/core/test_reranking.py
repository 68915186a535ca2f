"""Candidates ranked anew: the operator's own answer, whatever the ranking."""

import numpy as np
import pytest

from calibox_core.fusion import Exponents, Fusion, FusionName
from calibox_core.nms import Detections, NmsAttributes, OutScore, calibrated_nms, select_candidates
from calibox_core.reranking import RawCandidates, overlapping, rerank

CLASSES = 3
RANKINGS = {
    "classification": Fusion(name=FusionName.CLASSIFICATION),
    "product": Fusion(name=FusionName.PRODUCT),
    "geometric": Fusion(name=FusionName.GEOMETRIC, alpha=0.3),
    "power": Fusion(name=FusionName.POWER, alpha=2.0),
    "gaussian": Fusion(name=FusionName.GAUSSIAN, sigma=0.2),
    "localization": Fusion(name=FusionName.LOCALIZATION),
}


def scene(seed: int, anchors: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes in heaps, so that many exclude each other, with p and q of their own."""
    rng = np.random.default_rng(seed)
    heaps = rng.uniform(10, 80, (8, 4)).astype(np.float32)
    heaps[:, 2:] = heaps[:, :2] + rng.uniform(10, 40, (8, 2))
    boxes = heaps[rng.integers(0, 8, anchors)] + rng.normal(0, 3, (anchors, 4)).astype(np.float32)
    p = rng.random((anchors, CLASSES)).astype(np.float32) ** 4
    return boxes.astype(np.float32), p, rng.random((anchors, 1)).astype(np.float32)


def fetched(seed: int, exponents: Exponents, attributes: NmsAttributes) -> RawCandidates:
    """All candidates, in the order of another ranking."""
    found = select_candidates(*scene(seed), exponents, attributes)
    return RawCandidates(found.boxes, found.labels, found.classification_scores, found.localization_scores)


def same(found: Detections, wanted: Detections) -> None:
    for name in ("boxes", "labels", "classification_scores", "localization_scores", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


@pytest.mark.parametrize("name", RANKINGS)
@pytest.mark.parametrize("out_score", list(OutScore))
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_candidates_fetched_under_one_ranking_give_the_operators_answer_under_another(
    name: str, out_score: OutScore, class_agnostic: bool
) -> None:
    # As many candidates as there are pairs: nothing was left behind when they were fetched.
    attributes = NmsAttributes(
        pre_nms_top_k=3 * 120, max_detections=20, out_score=out_score, class_agnostic=class_agnostic
    )
    exponents = RANKINGS[name].exponents()
    for seed in range(3):
        raw = fetched(seed, RANKINGS["product"].exponents(), attributes)
        excluded = overlapping(raw, 0.5, class_agnostic=class_agnostic)
        found = rerank(raw, excluded, exponents, attributes, score_threshold=0.05)
        wanted = calibrated_nms(
            *scene(seed), exponents=exponents, score_threshold=0.05, iou_threshold=0.5, attributes=attributes
        )
        same(found, wanted)
        assert 0 < len(wanted.labels) <= 20


def test_the_limit_of_candidates_holds_under_the_new_ranking() -> None:
    attributes = NmsAttributes(pre_nms_top_k=3 * 120, max_detections=100)
    raw = fetched(0, RANKINGS["classification"].exponents(), attributes)
    few = attributes.model_copy(update={"pre_nms_top_k": 12, "candidate_floor": 0.1})
    exponents = RANKINGS["product"].exponents()
    found = rerank(raw, overlapping(raw, 0.5, class_agnostic=False), exponents, few)
    wanted = calibrated_nms(*scene(0), exponents=exponents, score_threshold=0, iou_threshold=0.5, attributes=few)
    same(found, wanted)
    assert len(wanted.labels) < 12


def test_no_candidates_are_no_detections() -> None:
    none = RawCandidates(np.empty((0, 4), np.float32), np.empty(0, np.int32), *(np.empty(0, np.float32),) * 2)
    excluded = overlapping(none, 0.5, class_agnostic=False)
    assert len(rerank(none, excluded, RANKINGS["product"].exponents(), NmsAttributes()).labels) == 0
