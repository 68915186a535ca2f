"""KITTI's average precision against values worked out by hand."""

from typing import Any

import pytest

from calibox_core.kitti_metrics import LIMITS, count_at, hit_scores, kitti_metrics, make_frame, recall_thresholds

Row = dict[str, Any]


def thing(box: list[float], kind: str = "Car", *, image: int = 1, truncated: float = 0.0, occluded: int = 0) -> Row:
    return {"image_id": image, "bbox": box, "kitti_type": kind, "truncated": truncated, "occluded": occluded}


def found(box: list[float], score: float, *, image: int = 1) -> Row:
    return {"image_id": image, "category_id": 1, "bbox": box, "score": score}


def document(*annotations: Row, images: int = 1) -> Row:
    return {"images": [{"id": n + 1} for n in range(images)], "annotations": list(annotations)}


CAR = [0.0, 0.0, 80.0, 60.0]  # x, y, width, height; high enough for every difficulty
AWAY = [300.0, 0.0, 80.0, 60.0]


def test_precision_at_the_recall_points_by_hand() -> None:
    # 80 cars, one an image, all found with falling scores; 80 mistakes rank between the first 40 and the last 40.
    truth = document(*(thing(CAR, image=n + 1) for n in range(80)), images=80)
    hits = [found(CAR, 1 - n / 100, image=n + 1) for n in range(80)]
    mistakes = [found(AWAY, 0.605, image=n + 1) for n in range(80)]
    metrics = kitti_metrics(truth, hits + mistakes)
    # Thresholds stand at the hits 1, 2, 4, 6, ... 80: 21 of them above the mistakes with precision 1. Below, precision
    # rises to 80 / 160, and the envelope gives 1/2 to all 20. Of the 40 points without recall 0: 20 * 1 + 20 * 1/2.
    assert metrics["KITTI_AP_R40_easy"] == pytest.approx(30 / 40)
    # Every fourth of 41, from the first: 6 at precision 1 and 5 at 1/2.
    assert metrics["KITTI_AP_R11_easy"] == pytest.approx(8.5 / 11)
    for kind in ("R40", "R11"):
        assert metrics[f"KITTI_AP_{kind}_moderate"] == metrics[f"KITTI_AP_{kind}_hard"]
        assert metrics[f"KITTI_AP_{kind}_hard"] == metrics[f"KITTI_AP_{kind}_easy"]


def test_all_of_eighty_cars_found_without_mistake_is_one() -> None:
    truth = document(*(thing(CAR, image=n + 1) for n in range(80)), images=80)
    hits = [found(CAR, 1 - n / 100, image=n + 1) for n in range(80)]
    assert list(kitti_metrics(truth, hits).values()) == pytest.approx([1.0] * 6)


def test_few_cars_fill_few_points_as_in_the_benchmark() -> None:
    # Four hits stand at the first four of the 41 positions: precision 1, 1, 3/4, 4/5 with one mistake above the third.
    truth = document(*(thing(CAR, image=n + 1) for n in range(4)), images=4)
    hits = [found(CAR, score, image=n + 1) for n, score in enumerate((0.9, 0.8, 0.7, 0.6))]
    metrics = kitti_metrics(truth, [*hits, found(AWAY, 0.75)])
    assert metrics["KITTI_AP_R40_easy"] == pytest.approx((1 + 0.8 + 0.8) / 40)
    assert metrics["KITTI_AP_R11_easy"] == pytest.approx(1 / 11)


def test_recall_thresholds_of_eighty_hits_are_the_first_the_second_and_every_second_from_there() -> None:
    scores = [1 - n / 100 for n in range(80)]
    assert recall_thresholds(scores, 80) == [scores[0], *scores[1::2]]


@pytest.mark.parametrize(
    ("item", "valid"),
    [
        (thing(CAR), {"easy", "moderate", "hard"}),
        (thing([0, 0, 80, 40.0]), {"moderate", "hard"}),  # easy: higher than 40 pixels
        (thing([0, 0, 80, 40.5]), {"easy", "moderate", "hard"}),
        (thing([0, 0, 80, 25.0]), set()),
        (thing(CAR, occluded=1), {"moderate", "hard"}),
        (thing(CAR, occluded=2), {"hard"}),
        (thing(CAR, occluded=3), set()),
        (thing(CAR, truncated=0.15), {"easy", "moderate", "hard"}),
        (thing(CAR, truncated=0.2), {"moderate", "hard"}),
        (thing(CAR, truncated=0.4), {"hard"}),
        (thing(CAR, truncated=0.6), set()),
        (thing(CAR, "Van"), set()),
    ],
)
def test_difficulties_by_height_occlusion_and_truncation(item: Row, valid: set[str]) -> None:
    frames = {difficulty: make_frame([item], [], limits) for difficulty, limits in LIMITS.items()}
    assert {difficulty for difficulty, frame in frames.items() if not frame.ignored[0]} == valid


EASY = LIMITS["easy"]


def test_an_overlap_of_seven_tenths_must_be_exceeded() -> None:
    car = [thing([0, 0, 100, 70])]
    assert count_at(make_frame(car, [found([0, 0, 100, 100], 0.9)], EASY), 0.0) == (0, 1)
    assert count_at(make_frame(car, [found([0, 0, 100, 99], 0.9)], EASY), 0.0) == (1, 0)


def test_a_second_detection_of_a_car_is_wrong() -> None:
    frame = make_frame([thing(CAR)], [found(CAR, 0.9), found([1, 0, 80, 60], 0.8)], EASY)
    assert count_at(frame, 0.0) == (1, 1)
    assert count_at(frame, 0.85) == (1, 0)
    assert hit_scores(frame) == [0.9]


def test_one_detection_of_a_van_or_an_ignored_car_is_forgiven() -> None:
    for item in (thing(CAR, "Van"), thing(CAR, occluded=3)):
        assert count_at(make_frame([item], [found(CAR, 0.9)], EASY), 0.0) == (0, 0)
        assert hit_scores(make_frame([item], [found(CAR, 0.9)], EASY)) == []
        assert count_at(make_frame([item], [found(CAR, 0.9), found(CAR, 0.8)], EASY), 0.0) == (0, 1)


def test_any_number_of_detections_inside_a_dont_care_region_is_forgiven() -> None:
    region = thing([300, 0, 400, 200], "DontCare")
    detections = [found([310, 10, 80, 60], 0.9), found([500, 10, 80, 60], 0.8)]
    assert count_at(make_frame([region], detections, EASY), 0.0) == (0, 0)
    # IoU does not matter, but the share of the detection does: 0.7 must be exceeded.
    partly = [found([300 - out, 0, 80, 60], 0.9) for out in (23, 24)]
    assert [count_at(make_frame([region], [d], EASY), 0.0) for d in partly] == [(0, 0), (0, 1)]


def test_a_detection_that_is_too_low_is_neither_right_nor_wrong() -> None:
    low = [0.0, 0.0, 80.0, 39.9]
    assert count_at(make_frame([], [found(low, 0.9)], EASY), 0.0) == (0, 0)
    car = [thing([0, 0, 80, 41])]
    assert count_at(make_frame(car, [found(low, 0.9)], EASY), 0.0) == (0, 0)
    assert hit_scores(make_frame(car, [found(low, 0.9)], EASY)) == []
    # The car prefers a detection that counts, although the low one comes first.
    assert count_at(make_frame(car, [found(low, 0.9), found([0, 0, 80, 42], 0.8)], EASY), 0.0) == (1, 0)


def test_a_car_takes_the_best_overlap_for_precision_and_the_best_score_for_recall() -> None:
    frame = make_frame([thing(CAR), thing([20, 0, 80, 60])], [found([10, 0, 80, 60], 0.9), found(CAR, 0.5)], EASY)
    assert hit_scores(frame) == [0.9]  # the first car takes 0.9, which leaves nothing that fits the second
    assert count_at(frame, 0.0) == (2, 0)


def test_without_a_valid_car_there_is_nothing_to_measure() -> None:
    metrics = kitti_metrics(document(thing(CAR, occluded=1)), [])
    assert metrics["KITTI_AP_R40_easy"] is None
    assert metrics["KITTI_AP_R40_moderate"] == 0.0
