"""K-means of aspect ratios: hand values, the best division by brute force, and what its definition promises."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_core.errors import InvalidParameterError
from calibox_core.kitti import KittiFolder, KittiSplits
from calibox_training.anchor_ratios import anchor_ratios, kmeans_centres
from calibox_training.data.coco import ImageRecord, read_classes, read_records
from tests.support.kitti import make_kitti


def record(*sides: tuple[float, float], crowd: int = 0) -> ImageRecord:
    """Objects of these widths and heights; the last `crowd` of them are crowd regions."""
    boxes = np.array([[3, 5, 3 + w, 5 + h] for w, h in sides], np.float32).reshape(-1, 4)
    crowds = np.arange(len(sides)) >= len(sides) - crowd
    labels = np.where(crowds, -1, 0)
    return ImageRecord(image_id=1, file_name="", width=999, height=999, boxes=boxes, labels=labels, crowd=crowds)


def test_two_groups_of_shapes_become_two_ratios_of_height_over_width() -> None:
    records = [record((20, 10), (22, 10)), record((10, 10), (9, 10), (90, 10), crowd=1), record()]
    # Width over height: 2 and 2.2 give 2.1; 1 and 0.9 give 0.95; the crowd of 9 does not enter.
    assert anchor_ratios(records, 2) == pytest.approx((1 / 2.1, 1 / 0.95))


def test_one_cluster_is_the_mean() -> None:
    assert kmeans_centres(np.array([1.0, 2.0, 6.0]), 1).tolist() == [3.0]


def test_groups_that_stand_apart_are_divided_as_brute_force_divides_them() -> None:
    values = np.array([0.5, 0.55, 1.0, 1.1, 1.05, 2.0, 2.2, 2.1, 2.15, 4.0])
    ordered = np.sort(values)

    def spread(cuts: tuple[int, ...]) -> float:
        return float(sum(((part - part.mean()) ** 2).sum() for part in np.split(ordered, cuts)))

    best = min(itertools.combinations(range(1, len(values)), 3), key=spread)
    expected = [part.mean() for part in np.split(ordered, best)]
    assert kmeans_centres(values, 4) == pytest.approx(expected)


@given(values=st.lists(st.integers(1, 40).map(lambda n: n / 8), min_size=1, max_size=40), clusters=st.integers(1, 6))
def test_each_centre_is_the_mean_of_what_is_nearest_and_the_order_of_values_does_not_matter(
    values: list[float], clusters: int
) -> None:
    if clusters > len(set(values)):
        with pytest.raises(InvalidParameterError, match="number of distinct values"):
            kmeans_centres(np.array(values), clusters)
        return
    centres = kmeans_centres(np.array(values), clusters)
    assert (np.diff(centres) > 0).all()
    np.testing.assert_array_equal(centres, kmeans_centres(np.array(values[::-1]), clusters))
    nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)  # half-way belongs to the lower
    for number, centre in enumerate(centres):
        own = np.array(values)[nearest == number]
        assert len(own) > 0
        assert centre == pytest.approx(own.mean())


def test_the_ratios_of_a_kitti_split_come_from_its_cars_alone(tmp_path: Path) -> None:
    annotations = KittiFolder(make_kitti(tmp_path), KittiSplits()).annotations("train")
    records = read_records(annotations, read_classes(annotations))
    cars = [a["bbox"] for a in annotations["annotations"] if a["kitti_type"] == "Car"]
    (ratio,) = anchor_ratios(records, 1)
    assert 1 / ratio == pytest.approx(np.mean([w / h for _, _, w, h in cars]))
