"""Rankings of the same candidates: which anchors a level passes on, suppression and reported score, redone offline.

Letters: A anchors of all levels, K anchors kept in the raw outputs, N detections, G objects.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import pairwise_iou, xyxy_to_xywh
from calibox_core.fusion import Exponents, Fusion, FusionName, fuse, log_key
from calibox_core.nms import NmsAttributes, OutScore, calibrated_nms, select_candidates
from calibox_training.evaluation import NO_THRESHOLD
from calibox_training.reproduce.raw import RawImage, RawSplit

Control = Literal["shuffled", "oracle"]
# Alpha of `p^alpha * q^(1 - alpha)`: Table 3 of IoU-aware RetinaNet; its 1.0 is `classification`, its 0 `localization`.
ALPHAS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
POWERS = (0.2, 0.3, 0.4)  # CLQ's Table I
LOCALIZATION_FLOOR = 0.05  # IoU-Net filters by the class score before it ranks by IoU; without, background wins


@dataclass(frozen=True, slots=True)
class Ranking:
    """How detections of a raw split are made."""

    exponents: Exponents
    out_score: OutScore = OutScore.KEY
    floor: float | None = None  # candidate floor, the recipe's where None
    control: Control | None = None  # what takes the place of q


def geometric_name(alpha: float) -> str:
    """Name of the ranking `p^alpha * q^(1 - alpha)`."""
    return f"geometric {alpha:g}"


def rankings() -> Mapping[str, Ranking]:
    """All rankings by name, `classification` first."""
    product = Fusion(name=FusionName.PRODUCT).exponents()
    return {
        "classification": Ranking(Fusion(name=FusionName.CLASSIFICATION).exponents()),
        "product": Ranking(product),
        **{geometric_name(a): Ranking(Fusion(name=FusionName.GEOMETRIC, alpha=a).exponents()) for a in ALPHAS},
        **{f"power {a:g}": Ranking(Fusion(name=FusionName.POWER, alpha=a).exponents()) for a in POWERS},
        "gaussian 1": Ranking(Fusion(name=FusionName.GAUSSIAN, sigma=1.0).exponents()),
        "localization": Ranking(Fusion(name=FusionName.LOCALIZATION).exponents(), floor=LOCALIZATION_FLOOR),
        "LC": Ranking(product, OutScore.CLASSIFICATION),
        "LC+CS": Ranking(product, OutScore.CLASSIFICATION_CLUSTERED),
        "shuffled": Ranking(product, control="shuffled"),
        "oracle": Ranking(product, control="oracle"),
    }


def own_ranking(fusion: Fusion, out_score: OutScore) -> str:
    """Name of the ranking that a recipe asks for; `classification` where it is none of `rankings`."""
    wanted = Ranking(fusion.exponents(), out_score)
    return next((name for name, ranking in rankings().items() if ranking == wanted), "classification")


@dataclass(frozen=True, slots=True)
class ImageFound:
    """What a ranking makes of one image."""

    boxes_N4: NDArray[np.float64]  # x, y, width, height in pixels of the image, best score first
    labels_N: NDArray[np.int64]
    scores_N: NDArray[np.float64]
    iou_N: NDArray[np.float32]  # best IoU with an object of the detection's class
    samples: NDArray[np.float32]  # [candidates, 4] p, q, score, true IoU before suppression


def ranked(split: RawSplit, ranking: Ranking) -> Iterator[ImageFound]:
    """Detections of every image in the order of the split."""
    recipe = split.recipe
    update = {"out_score": ranking.out_score}
    floor = {} if ranking.floor is None else {"candidate_floor": ranking.floor}
    attributes = recipe.nms.model_copy(update={**update, **floor})
    for image in split.images:
        q_A = quality(image, ranking.control)
        chosen_A = best_per_level(
            log_key(image.best_p_A, q_A, ranking.exponents), split.counts, top_k=recipe.per_level_top_k
        )
        rows = chosen_A[image.index_K]
        yield _found(image, rows, q_A[image.index_K[rows]], ranking, attributes, recipe.thresholds.iou)


def best_per_level(key_A: NDArray[np.float32], counts: tuple[int, ...], *, top_k: int) -> NDArray[np.bool_]:
    """Which anchors their level passes on, ties to the first."""
    chosen_A = np.zeros(len(key_A), np.bool_)
    start = 0
    for count in counts:
        chosen_A[start : start + count] = _best(key_A[start : start + count], top_k)
        start += count
    return chosen_A


def _best(key_A: NDArray[np.float32], top_k: int) -> NDArray[np.bool_]:
    if len(key_A) <= top_k:
        return np.ones(len(key_A), np.bool_)
    last = np.partition(key_A, -top_k)[-top_k]
    chosen_A: NDArray[np.bool_] = key_A > last
    chosen_A[np.flatnonzero(key_A == last)[: top_k - int(chosen_A.sum())]] = True
    return chosen_A


def quality(image: RawImage, control: Control | None) -> NDArray[np.float32]:
    """Q of all anchors, or what a control puts in its place.

    `shuffled` exchanges q at random among all anchors of the image that can become candidates: were those of low p to
    keep theirs, q would go on telling background from objects. `oracle` is the IoU of the decoded box with its best
    object, of whatever class, as a class-agnostic branch could know it; 0 for anchors that are no candidates.
    """
    if control is None:
        return image.q_A
    q_A = image.q_A.copy()
    if control == "shuffled":
        # Seeded by the image: every ranking, system and seed meets the same order of draws.
        q_A[image.index_K] = q_A[np.random.default_rng(image.record.image_id).permutation(image.index_K)]
        return q_A
    q_A[:] = 0
    boxes_K4 = image.letterbox.to_image(image.boxes_K4)
    objects = image.record.boxes[image.record.labels >= 0]
    q_A[image.index_K] = pairwise_iou(boxes_K4, objects).max(axis=1, initial=0)
    return q_A


def _found(
    image: RawImage,
    rows: NDArray[np.bool_],
    q: NDArray[np.float32],
    ranking: Ranking,
    attributes: NmsAttributes,
    iou_threshold: float,
) -> ImageFound:
    before = select_candidates(image.boxes_K4[rows], image.p_KC[rows], q[:, None], ranking.exponents, attributes)
    # The candidates alone, each with the p of its own class, are the same suppression with less to sort.
    p_KC = np.zeros((len(before.labels), image.p_KC.shape[1]), np.float32)
    p_KC[np.arange(len(before.labels)), before.labels] = before.classification_scores
    kept = calibrated_nms(
        before.boxes,
        p_KC,
        before.localization_scores[:, None],
        exponents=ranking.exponents,
        score_threshold=NO_THRESHOLD,
        iou_threshold=iou_threshold,
        attributes=attributes,
    )
    # A reported score need not fall in the order of the key.
    order = np.argsort(-kept.scores, kind="stable")
    found = image.letterbox.to_image(kept.boxes)[order]
    labels = kept.labels[order].astype(np.int64)
    scores = fuse(before.classification_scores, before.localization_scores, ranking.exponents)
    iou = _true_iou(image, image.letterbox.to_image(before.boxes), before.labels)
    return ImageFound(
        boxes_N4=xyxy_to_xywh(found).astype(np.float64),
        labels_N=labels,
        scores_N=kept.scores[order].astype(np.float64),
        iou_N=_true_iou(image, found, labels),
        samples=np.stack([before.classification_scores, before.localization_scores, scores, iou], axis=1),
    )


def _true_iou(image: RawImage, boxes: NDArray[np.float32], labels: NDArray[np.integer]) -> NDArray[np.float32]:
    same = labels[:, None] == image.record.labels[None, :]
    best: NDArray[np.float32] = np.where(same, pairwise_iou(boxes, image.record.boxes), 0).max(axis=1, initial=0)
    return best.astype(np.float32)
