"""Views of large images and the merging of what they show; hand-computed, and against plain loops."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_core.boxes import pairwise_iou
from calibox_core.nms import NmsAttributes, OutScore
from calibox_core.ranking import Exponents
from calibox_server.tiles import COVERED, CUT_FACTOR, Seen, Tiling, View, count_views, is_cut, merge, views_of

GEOMETRIC = Exponents(0.5, 0.5, 0.0)
NMS = NmsAttributes()
WHOLE = View(0, 0, 1000, 1000)
Row = tuple[list[float], int, float, float, bool]  # box, label, p, q, cut


def seen(*rows: Row, scores: list[float] | None = None) -> Seen:
    """Detections whose score is the geometric mean of p and q, unless given."""
    p, q = (np.array([row[i] for row in rows], np.float32) for i in (2, 3))
    return Seen(
        boxes=np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        labels=np.array([row[1] for row in rows], np.int32),
        classification_scores=p,
        localization_scores=q,
        scores=np.sqrt(p * q) if scores is None else np.array(scores, np.float32),
        cut=np.array([row[4] for row in rows], np.bool_),
    )


def merged(*views: Seen, nms: NmsAttributes = NMS, iou_threshold: float = 0.5) -> Seen:
    return merge(views, exponents=GEOMETRIC, iou_threshold=iou_threshold, nms=nms)


def test_an_image_is_cut_into_even_tiles_behind_the_whole() -> None:
    # 100 x 50 in tiles of 40 x 40 that overlap by a quarter: steps of at most 30 pixels.
    assert views_of(100, 50, Tiling(40, 40, 0.25)) == [
        View(0, 0, 100, 50),
        View(0, 0, 40, 40),
        View(30, 0, 70, 40),
        View(60, 0, 100, 40),
        View(0, 10, 40, 50),
        View(30, 10, 70, 50),
        View(60, 10, 100, 50),
    ]


def test_an_image_that_fits_into_one_tile_is_looked_at_once() -> None:
    assert views_of(40, 30, Tiling(40, 40, 0.2)) == [View(0, 0, 40, 30)]
    assert views_of(90, 30, Tiling(40, 40, 0.0))[1:] == [View(0, 0, 40, 30), View(25, 0, 65, 30), View(50, 0, 90, 30)]


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    tile=st.integers(32, 200),
    overlap=st.floats(0, 0.9),
)
def test_tiles_cover_the_image_lie_in_it_and_overlap_enough(width: int, height: int, tile: int, overlap: float) -> None:
    tiling = Tiling(tile, tile, overlap)
    views = views_of(width, height, tiling)
    assert count_views(width, height, tiling) == len(views)
    assert views[0] == View(0, 0, width, height)
    tiles = views[1:] or views
    for low, high, size in ((0, 2, width), (1, 3, height)):
        spans = sorted({(view[low], view[high]) for view in tiles})
        assert spans[0][0] == 0
        assert spans[-1][1] == size
        assert {end - start for start, end in spans} == {min(size, tile)}
        for (_, end), (start, _) in pairwise(spans):
            assert end - start >= math.floor(tile * overlap) or end - start == tile - 1
    assert len(set(tiles)) == len(tiles)


def test_a_box_is_cut_where_its_tile_ends_inside_the_image() -> None:
    tile = View(0, 400, 500, 900)  # its left border is the image's; a margin of 5 pixels
    boxes = np.array(
        [[0, 500, 50, 600], [300, 500, 496, 600], [300, 405, 400, 500], [300, 500, 400, 894], [6, 406, 494, 894]],
        np.float32,
    )
    assert is_cut(boxes, tile, WHOLE).tolist() == [False, True, True, False, False]
    assert not is_cut(boxes, WHOLE, WHOLE).any()


def test_the_same_object_in_two_views_is_one_detection_the_best_of_them() -> None:
    whole = seen(([100, 100, 200, 200], 0, 0.5, 0.5, False))
    tile = seen(([102, 100, 200, 200], 0, 0.9, 0.8, False), ([500, 500, 520, 520], 1, 0.6, 0.6, False))
    found = merged(whole, tile)
    assert found.boxes.tolist() == [[102, 100, 200, 200], [500, 500, 520, 520]]
    assert found.scores.tolist() == pytest.approx([math.sqrt(0.72), 0.6])


def test_other_classes_stay_unless_the_graph_suppresses_across_classes() -> None:
    views = [seen(([0, 0, 10, 10], label, 0.9 - label / 10, 0.9, False)) for label in (0, 1)]
    assert merged(*views).labels.tolist() == [0, 1]
    assert merged(*views, nms=NmsAttributes(class_agnostic=True)).labels.tolist() == [0]


def test_a_part_goes_where_the_whole_object_was_seen_even_if_the_part_is_surer() -> None:
    whole = seen(([100, 100, 300, 200], 0, 0.5, 0.5, False))
    part = seen(([100, 100, 160, 200], 0, 0.8, 0.8, True))  # IoU 0.3 with the whole, covered by it altogether
    assert merged(whole, part).boxes.tolist() == [[100, 100, 300, 200]]
    assert merged(part, whole).scores.tolist() == [0.5]


def test_a_part_stays_where_nothing_better_covers_it() -> None:
    part = ([100.0, 100.0, 160.0, 200.0], 0, 0.8, 0.8, True)
    other_class = seen(([100, 100, 300, 200], 1, 0.9, 0.9, False))
    beside = seen(([130, 100, 300, 200], 0, 0.9, 0.9, False))  # covers half of it
    doubtful = seen(([100, 100, 300, 200], 0, 0.3, 0.3, False))  # less than half as sure
    for view in (other_class, beside, doubtful):
        assert [100, 100, 160, 200] in merged(view, seen(part)).boxes.tolist()


def test_a_small_object_within_a_large_one_of_its_class_stays_if_no_border_cuts_it() -> None:
    large = seen(([0, 0, 500, 500], 0, 0.9, 0.9, False))
    assert len(merged(large, seen(([100, 100, 150, 150], 0, 0.5, 0.5, False))).boxes) == 2
    assert len(merged(large, seen(([100, 100, 150, 150], 0, 0.5, 0.5, True))).boxes) == 1


def test_a_clustered_score_is_the_best_of_the_cluster() -> None:
    nms = NmsAttributes(out_score=OutScore.CLASSIFICATION_CLUSTERED)
    first = seen(([0, 0, 100, 100], 0, 0.5, 0.9, False), scores=[0.6])
    second = seen(([2, 0, 100, 100], 0, 0.7, 0.5, False), scores=[0.8])
    found = merged(first, second, nms=nms)  # keys 0.67 and 0.59
    assert found.boxes.tolist() == [[0, 0, 100, 100]]
    assert found.scores.tolist() == pytest.approx([0.8])


def test_nothing_found_passes_through_the_same_lines() -> None:
    found = merged(seen(), seen())
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)


ROWS = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(5, 60), st.integers(5, 60)),
        st.integers(0, 1),
        st.integers(2, 31).map(lambda half: (2 * half + 1) / 64),  # twice one is never another: ties are of equals
        st.booleans(),
    ),
    max_size=14,
)


@given(rows=ROWS, threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_merging_is_what_plain_loops_say(
    rows: list[tuple[tuple[int, int, int, int], int, float, bool]], threshold: float
) -> None:
    """The key is the score here; ties keep the order in which the views came."""
    views = [
        seen(([float(x), float(y), float(x + w), float(y + h)], label, score, score, cut))
        for (x, y, w, h), label, score, cut in rows
    ]
    every = [(float(v.scores[0]) * (CUT_FACTOR if v.cut[0] else 1), i, v) for i, v in enumerate(views)]
    kept: list[Seen] = []
    for _, _, view in sorted(every, key=lambda item: (-item[0], item[1])):
        rivals = [k for k in kept if k.labels[0] == view.labels[0]]
        if not any(pairwise_iou(k.boxes, view.boxes)[0, 0] > threshold for k in rivals):
            kept.append(view)
    whole: list[Seen] = []
    for view in kept:
        box = view.boxes[0]
        area = (box[2] - box[0]) * (box[3] - box[1])
        covers = False
        for other in whole:
            low, high = np.maximum(other.boxes[0, :2], box[:2]), np.minimum(other.boxes[0, 2:], box[2:])
            covers |= bool(other.labels[0] == view.labels[0] and np.prod(np.maximum(high - low, 0)) > COVERED * area)
        if not (view.cut[0] and covers):
            whole.append(view)
    expected = sorted((tuple(v.boxes[0].tolist()), int(v.labels[0]), float(v.scores[0])) for v in whole)
    found = merge([seen(), *views], exponents=GEOMETRIC, iou_threshold=threshold, nms=NMS)
    got = zip(map(tuple, found.boxes.tolist()), found.labels.tolist(), found.scores.tolist(), strict=True)
    assert sorted(got) == expected
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
