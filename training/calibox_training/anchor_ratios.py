"""Aspect ratios of anchors from the objects of a training split, by K-means as LED does for KITTI (its section 3.2)."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from calibox_core.errors import InvalidParameterError
from calibox_training.data.coco import ImageRecord

# Lloyd's rounds end by themselves when no value changes its cluster; this only bounds them.
_MAX_ROUNDS = 1000


def kmeans_centres(values: NDArray[np.float64], clusters: int) -> NDArray[np.float64]:
    """Centres of one-dimensional K-means (Lloyd's algorithm), rising.

    It starts from the middles of equally filled quantiles instead of random values, so the same values, in whatever
    order, give the same centres.

    Args:
        values: ``[N]``, finite.
        clusters: at least 1, at most the number of distinct values.

    Returns: ``[clusters]``; each centre is the mean of the values nearest to it.

    Raises:
        InvalidParameterError: there are fewer distinct values than clusters.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    distinct = np.unique(ordered)
    if not 1 <= clusters <= len(distinct):
        raise InvalidParameterError(
            f"clusters must be within 1..{len(distinct)}, the number of distinct values, got {clusters}"
        )
    centres = np.quantile(ordered, (np.arange(clusters) + 0.5) / clusters)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(_MAX_ROUNDS):
        # Clusters of sorted values are intervals; a value half-way belongs to the lower centre.
        middles = (centres[1:] + centres[:-1]) / 2
        edges = np.concatenate([[0], np.searchsorted(ordered, middles, side="right"), [len(ordered)]])
        counts = np.diff(edges)
        if counts.min() == 0:  # a centre that nothing is nearest to goes where a value is farthest from its own
            away = np.abs(ordered - np.repeat(centres, counts))
            centres[counts.argmin()] = ordered[away.argmax()]
            centres.sort()
            continue
        moved = np.diff(sums[edges]) / counts
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def anchor_ratios(records: Iterable[ImageRecord], clusters: int) -> tuple[float, ...]:
    """Ratios for a recipe's ``model.anchors.ratios`` (height over width), rising.

    Width over height of every object is clustered and the recipe takes the inverse: the paper does not say which way
    round its 1.0, 1.5, 1.8, 2.2, 2.7 are, but KITTI's cars are wider than high. Crowd and other ignored regions do not
    enter.

    Args:
        records: of the training split; boxes without area are absent from records.
        clusters: how many ratios.

    Raises:
        InvalidParameterError: there are fewer distinct shapes than clusters.
    """
    sides = [(record.boxes[:, 2:] - record.boxes[:, :2])[~record.crowd] for record in records]
    shapes = np.concatenate([np.empty((0, 2)), *sides]).astype(np.float64)
    return tuple(float(1 / centre) for centre in kmeans_centres(shapes[:, 0] / shapes[:, 1], clusters)[::-1])
