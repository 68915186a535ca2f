"""Inputs of CalibratedNMS by numpy alone, so that they can be made on a machine that has no more than it and torch.

Scores lie on a coarse grid whose keys are either exactly equal or far apart under every fusion below, so that two
implementations of the logarithm that differ in the last bit must still agree on every index:
p is a power of 4, q is 0, 1/2 or 1, and a p + b q takes no value twice unless a or b is 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.ranking import Exponents
from calibox_core.suppression import Attributes, OutScore

P_GRID = np.array([1, 2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 0], np.float32)
Q_GRID = np.array([1, 0.5, 0], np.float32)
EXPONENTS = (
    Exponents(1, 0, 0),
    Exponents(1, 1, 0),
    Exponents(0.5, 0.5, 0),
    Exponents(1, 0.3, 0),
    Exponents(1, 0, 2),
    Exponents(0, 1, 0),
    Exponents(0, 0, 1),
)
# None is the value of a key on the grid: a last-bit difference must not decide what is reported.
SCORE_THRESHOLDS = (0.0, 0.07, 0.3, 0.9)
IOU_THRESHOLDS = (0.0, 0.3, 0.5, 1.0)
NOT_FINITE = (np.nan, np.inf, -np.inf)


@dataclass(frozen=True)
class PlainAttributes:
    """What is fixed in the graph, as numbers that nobody checks; the defaults are `NmsAttributes`'."""

    out_score: OutScore = OutScore.KEY
    class_agnostic: bool = False
    candidate_floor: float = 0.001
    pre_nms_top_k: int = 1000
    max_detections: int = 100


@dataclass(frozen=True)
class NmsImage:
    """What the operator gets for one image."""

    boxes: NDArray[np.float32]  # [A, 4]
    p: NDArray[np.float32]  # [A, C]
    q: NDArray[np.float32]  # [A, 1] or [A, C]
    exponents: Exponents
    score_threshold: float
    iou_threshold: float


@dataclass(frozen=True)
class NmsCase:
    """A batch of images of one shape, and what is fixed in the graph."""

    images: tuple[NmsImage, ...]
    attributes: Attributes

    @property
    def quality_per_class(self) -> bool:
        """Whether q has a column for each of several classes."""
        return self.images[0].q.shape[1] > 1


def random_boxes(rng: np.random.Generator, count: int, *, field: int) -> NDArray[np.float32]:
    """Boxes on whole pixels in a square of side ``field``: the smaller, the more overlaps, also exactly 1/2.

    Some are inverted or empty: those overlap nothing.
    """
    corner = rng.integers(0, field, (count, 2))
    return np.concatenate([corner, corner + rng.integers(-1, 12, (count, 2))], axis=1).astype(np.float32)


def spoil(rng: np.random.Generator, image: NmsImage) -> NmsImage:
    """The image with about a fifth of the values of one in five anchors replaced by NaN or an infinity."""
    return NmsImage(
        boxes=_spoil(rng, image.boxes),
        p=_spoil(rng, image.p),
        q=_spoil(rng, image.q),
        exponents=image.exponents,
        score_threshold=image.score_threshold,
        iou_threshold=image.iou_threshold,
    )


def _spoil(rng: np.random.Generator, values: NDArray[np.float32]) -> NDArray[np.float32]:
    hit = (rng.random((len(values), 1)) < 0.2) & (rng.random(values.shape) < 0.2)
    return np.where(hit, rng.choice(np.array(NOT_FINITE, np.float32), values.shape), values)


def stacked(case: NmsCase) -> dict[str, NDArray[Any]]:
    """The operator's inputs for the whole batch."""
    images = case.images
    return {
        "boxes": np.stack([image.boxes for image in images]),
        "p": np.stack([image.p for image in images]),
        "q": np.stack([image.q for image in images]),
        "fusion": np.array([image.exponents for image in images], np.float32),
        "score_threshold": np.array([image.score_threshold for image in images], np.float32),
        "iou_threshold": np.array([image.iou_threshold for image in images], np.float32),
    }


def scattered_image(rng: np.random.Generator, columns: int) -> NmsImage:
    """Forty anchors, four classes, scores on no grid and exponents of any size up to 3."""
    return NmsImage(
        boxes=random_boxes(rng, 40, field=60),
        p=rng.random((40, 4), np.float32),
        q=rng.random((40, columns), np.float32),
        exponents=Exponents(*rng.uniform(0, 3, 3).astype(np.float32).tolist()),
        score_threshold=0.0,
        iou_threshold=float(np.float32(rng.random())),
    )
