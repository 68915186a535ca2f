"""Distributions of scores: equal to plain loops, whatever the passes; classes beyond the most are counted together."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from calibox_server.score_counts import EDGES, FAMILY, MOST_CLASSES, PASS, REST, SCORES, ScoreCounts, exposition


@dataclass(frozen=True)
class Image:
    labels: NDArray[np.int32]
    classification_scores: NDArray[np.float32]
    localization_scores: NDArray[np.float32]
    scores: NDArray[np.float32]


def image(*rows: tuple[int, float, float, float]) -> Image:
    labels, p, q, s = np.array(rows, np.float64).reshape(-1, 4).T
    return Image(labels.astype(np.int32), p.astype(np.float32), q.astype(np.float32), s.astype(np.float32))


def in_loops(images: list[Image], classes: list[str]) -> dict[tuple[str, str], tuple[list[int], float]]:
    found: dict[tuple[str, str], tuple[list[int], float]] = {}
    for one in images:
        for label, p, q, s in zip(
            one.labels, one.classification_scores, one.localization_scores, one.scores, strict=True
        ):
            name = classes[label] if label < MOST_CLASSES else REST
            values = (float(p), float(q), float(s), abs(float(p) - float(q)))
            for kind, value in zip(SCORES, values, strict=True):
                counts, total = found.get((name, kind), ([0] * (len(EDGES) + 1), 0.0))
                counts[sum(value > edge for edge in EDGES)] += 1
                found[name, kind] = (counts, total + value)
    return found


def counted(counts: ScoreCounts) -> dict[tuple[str, str], tuple[list[int], float]]:
    return {(name, kind): (list(row), total) for name, kind, row, total in counts.rows()}


def test_one_detection_by_hand() -> None:
    counts = ScoreCounts(["cat", "dog"])
    counts.observe([image((1, 0.75, 0.5, 1.0))])
    zero = [0] * 11
    assert (
        counted(counts)
        == {
            ("dog", "classification"): ([*zero[:7], 1, 0, 0, 0], 0.75),  # within (0.7, 0.8]
            ("dog", "localization"): (
                [*zero[:4], 1, *zero[:6]],
                0.5,
            ),  # within (0.4, 0.5]: the upper edge belongs to it
            ("dog", "score"): ([*zero[:9], 1, 0], 1.0),
            ("dog", "disagreement"): ([0, 0, 1, *zero[:8]], 0.25),
        }
    )


unit = st.floats(0, 1, width=32)
images_of = st.lists(
    st.lists(st.tuples(st.integers(0, 2), unit, unit, unit), max_size=5).map(lambda rows: image(*rows)), max_size=150
)


@given(images_of, st.lists(st.integers(0, 150), max_size=3))
def test_equal_to_plain_loops_however_it_is_split(images: list[Image], cuts: list[int]) -> None:
    classes = ["a", "b", "c"]
    counts, edges = ScoreCounts(classes), [0, *sorted(cuts), len(images)]
    for low, high in pairwise(edges):
        counts.observe(images[low:high])
        if high % 2:
            counted(counts)  # asked in between
    # Slices overlap nowhere: the cuts are sorted.
    wanted = in_loops(images, classes)
    got = counted(counts)
    assert {key: row for key, (row, _) in got.items()} == {key: row for key, (row, _) in wanted.items()}
    for key, (_, total) in wanted.items():
        assert got[key][1] == pytest.approx(total, abs=1e-9)


def test_classes_beyond_the_most_are_one() -> None:
    classes = [f"c{i}" for i in range(MOST_CLASSES + 20)]
    images = [
        image((MOST_CLASSES - 1, 0.5, 0.5, 0.5), (MOST_CLASSES, 0.5, 0.5, 0.5), (MOST_CLASSES + 19, 0.5, 0.5, 0.5))
    ]
    counts = ScoreCounts(classes)
    counts.observe(images)
    found = counted(counts)
    assert {name for name, _ in found} == {f"c{MOST_CLASSES - 1}", REST}
    assert sum(found[REST, "score"][0]) == 2


def test_memory_is_bounded_by_a_pass() -> None:
    counts = ScoreCounts(["a"])
    for _ in range(3 * PASS + 1):
        counts.observe([image((0, 0.5, 0.5, 0.5))])
    assert len(counts._waiting) == 1
    assert counted(counts)["a", "score"][1] == pytest.approx((3 * PASS + 1) * 0.5)


def test_what_prometheus_reads_is_what_was_counted_whatever_a_class_is_called() -> None:
    name = 'a "b"\\c\nd'
    counts = ScoreCounts([name])
    counts.observe([image((0, 0.75, 0.5, 1.0), (0, 0.25, 0.5, 0.5))])
    (family,) = text_string_to_metric_families(exposition({("tiny", "1"): counts}))
    assert family.type == "histogram"
    found = {(s.name, s.labels["kind"], s.labels.get("le")): s.value for s in family.samples}
    assert {s.labels["class"] for s in family.samples} == {name}
    assert len(found) == 4 * (11 + 2)
    bucket, score = f"{FAMILY}_bucket", "score"
    assert [found[bucket, score, le] for le in ("0.4", "0.5", "0.9", "1.0", "+Inf")] == [0, 1, 1, 2, 2]
    assert (found[f"{FAMILY}_count", score, None], found[f"{FAMILY}_sum", score, None]) == (2, 1.5)
