"""Every ranking on raw scores that were fetched once, measured on the calibration half and on the test half.

Letters: I images, B resamplings, K candidates of an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from calibox_client.evaluation.raw_scores import RawImage
from calibox_core.bootstrap import average_precision, resampled
from calibox_core.boxes import xyxy_to_xywh
from calibox_core.coco_matching import ClassMatches, FoundObjects, ObjectBoxes, match_split
from calibox_core.dataset import calibration_and_test_ids
from calibox_core.fusion import Fusion, FusionName
from calibox_core.letterbox import Letterbox
from calibox_core.manifest import Manifest
from calibox_core.reranking import overlapping, rerank

ALPHAS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of geometric; 1 is classification, 0 localization
POWERS = (0.1, 0.2, 0.3, 0.5, 0.75, 1.5, 2.0, 3.0)  # of power; 0 is classification, 1 product
SIGMAS = (0.1, 0.2, 0.5, 1.0, 2.0)  # of gaussian; the larger, the less q weighs
BASE = "classification"
DRAWS = 1000  # resamplings of the images behind an interval


def swept_fusions(own: Fusion) -> dict[str, Fusion]:
    """What is tried, by name; ``own`` is the model's, which is tried whatever it is."""
    tried = [
        Fusion(name=FusionName.CLASSIFICATION),
        Fusion(name=FusionName.PRODUCT),
        *(Fusion(name=FusionName.GEOMETRIC, alpha=alpha) for alpha in ALPHAS),
        *(Fusion(name=FusionName.POWER, alpha=alpha) for alpha in POWERS),
        *(Fusion(name=FusionName.GAUSSIAN, sigma=sigma) for sigma in SIGMAS),
        Fusion(name=FusionName.LOCALIZATION),
        own,
    ]
    return {fusion_name(fusion): fusion for fusion in tried}


def fusion_name(fusion: Fusion) -> str:
    """A fusion with the parameter that it uses."""
    match fusion.name:
        case FusionName.GEOMETRIC | FusionName.POWER:
            return f"{fusion.name} {fusion.alpha:g}"
        case FusionName.GAUSSIAN:
            return f"{fusion.name} {fusion.sigma:g}"
    return str(fusion.name)


@dataclass(frozen=True, slots=True)
class Halves:
    """Which images choose, and which are reported on."""

    test_I: NDArray[np.bool_]

    @classmethod
    def of(cls, image_ids: Sequence[int]) -> Self:
        """Of these images, in this order."""
        return cls(np.isin(image_ids, calibration_and_test_ids(image_ids)[1]))

    def average_precisions(self, matches: Sequence[ClassMatches]) -> tuple[float, float]:
        """AP on the calibration half and on the test half, NaN where a half has no object."""
        weights_2I = np.stack([~self.test_I, self.test_I]).astype(np.float32)
        calibration, test = average_precision(matches, weights_2I).mean(axis=1)
        return float(calibration), float(test)

    def drawn(self, matches: Sequence[ClassMatches]) -> NDArray[np.float64]:
        """AP ``[B]`` on resamplings of the test half, the same ones for whatever is compared."""
        weights_BI = np.zeros((DRAWS, len(self.test_I)), np.float32)
        weights_BI[:, self.test_I] = resampled(int(self.test_I.sum()), DRAWS)
        drawn_B: NDArray[np.float64] = average_precision(matches, weights_BI).mean(axis=1)
        return drawn_B


@dataclass(frozen=True, slots=True)
class Point:
    """One ranking; AP 0..1, NaN where nothing can be measured."""

    name: str
    fusion: Fusion
    calibration_ap: float
    test_ap: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every ranking, and what each makes of every image."""

    points: tuple[Point, ...]
    found: Mapping[str, Sequence[FoundObjects]]  # by name, images in the order of their ids
    cut_images: int  # images with as many candidates as the graph keeps: others may be missing there

    @property
    def best(self) -> tuple[Point, ...]:
        """By AP on the calibration half, best first; of equals the first tried."""
        return tuple(sorted(self.points, key=lambda point: -np.nan_to_num(point.calibration_ap)))


def sweep(
    images: Sequence[RawImage],
    objects: Sequence[ObjectBoxes],
    manifest: Manifest,
    *,
    iou_threshold: float,
    max_detections: int,
    classes: int,
    label_of: NDArray[np.int64],
) -> Sweep:
    """Ranks, suppresses and measures under every fusion.

    Args:
        images: ordered by id.
        objects: of the same images.
        manifest: of the model.
        iou_threshold: of the suppression.
        max_detections: per image.
        classes: number of classes of ``objects``.
        label_of: class of ``objects`` of each label of the model, -1 where there is none.
    """
    fusions = swept_fusions(manifest.fusion)
    found: dict[str, list[FoundObjects]] = {name: [] for name in fusions}
    for image in images:
        excluded = overlapping(image.candidates, iou_threshold, class_agnostic=manifest.nms.class_agnostic)
        for name, fusion in fusions.items():
            found[name].append(ranked(image, excluded, fusion, manifest, max_detections, label_of))
    matches = {name: match_split(own, objects, classes) for name, own in found.items()}
    halves = Halves.of([image.image_id for image in images])
    at = {name: halves.average_precisions(own) for name, own in matches.items()}
    points = tuple(Point(name, fusion, *at[name]) for name, fusion in fusions.items())
    full = sum(len(image.candidates.labels_K) >= manifest.nms.pre_nms_top_k for image in images)
    return Sweep(points, found, full)


def ranked(
    image: RawImage,
    excluded_KK: NDArray[np.bool_],
    fusion: Fusion,
    manifest: Manifest,
    max_detections: int,
    label_of: NDArray[np.int64],
) -> FoundObjects:
    """What the server would answer for this image under this fusion, best score first."""
    size = manifest.input
    placed = Letterbox.fit(width=image.width, height=image.height, input_width=size.width, input_height=size.height)
    kept = rerank(image.candidates, excluded_KK, fusion.exponents(), manifest.nms)
    scores = manifest.score_map.apply(kept.scores)[:max_detections].astype(np.float64)
    boxes = xyxy_to_xywh(placed.to_image(kept.boxes[:max_detections])).astype(np.float64)
    labels = label_of[kept.labels[:max_detections]]
    order = np.argsort(-scores, kind="stable")
    order = order[labels[order] >= 0]
    return FoundObjects(boxes[order], labels[order], scores[order])
