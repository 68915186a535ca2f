"""Calibration in numbers worked out by hand: maps, thresholds, rates, the choice of a ranking, what is written."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from calibox_client.calibration.choices import Means, Metric
from calibox_client.calibration.choosing import choose_fusion, values
from calibox_client.calibration.effect import changes, drawn_error
from calibox_client.calibration.errors import CalibrationError
from calibox_client.calibration.increasing import LEAST_SLOPE, beta, isotonic, platt
from calibox_client.calibration.mapping import Target, choose_map
from calibox_client.calibration.points import Evidence, find_points, point_name, read_wanted
from calibox_client.calibration.publishing import Calibrated, destination_of, publish
from calibox_client.calibration.thresholds import Curve, Unreachable, reaching_threshold
from calibox_client.evaluation.calibrated import map_verdict
from calibox_client.evaluation.rates import Counts, measure_rates, wilson
from calibox_client.evaluation.sweep import Halves, Point, Sweep
from calibox_client.evaluation.sweeping import Live, Ranked
from calibox_core.bundle import copy_files, new_bundle, read_bundle, write_manifest
from calibox_core.coco_matching import ClassMatches, FoundObjects, ObjectBoxes, match_split
from calibox_core.errors import BundleError
from calibox_core.fusion import Fusion, FusionName
from calibox_core.lrp import mean_lrp, optimal_lrp, resampled_lrp
from calibox_core.operating_point import CalibrationRecord, MapChoice, Wanted
from calibox_core.score_calibration import binned_error
from calibox_core.score_map import ScoreMap
from tests.support.manifests import small_manifest, small_point

OWN = Fusion(name=FusionName.GEOMETRIC, alpha=0.5)


def matches(
    scores: list[float], hits: list[bool], images: list[int], objects: list[int], *, ious: int = 1, iou: float = 0.8
) -> ClassMatches:
    """One class, the same at every IoU threshold."""
    order = np.argsort(-np.array(scores), kind="stable")
    hit_TN = np.tile(np.array(hits, np.bool_)[order], (ious, 1))
    return ClassMatches(
        image_N=np.array(images, np.int64)[order],
        hit_TN=hit_TN,
        counts_TN=np.ones_like(hit_TN),
        objects_I=np.array(objects, np.int64),
        scores_N=np.array(scores, np.float64)[order],
        iou_TN=np.where(hit_TN, np.float32(iou), np.float32(0)),
    )


def wanted(measure: str, value: float, confidence: float = 0.5) -> Wanted:
    return Wanted.model_validate({"measure": measure, "value": value, "match_iou": 0.5, "confidence": confidence})


def mixed(value: float, score: float) -> float:
    return (1 - LEAST_SLOPE) * value + LEAST_SLOPE * score


def test_neighbours_that_fall_are_pooled_and_their_centres_joined() -> None:
    # 0.4 and 0.6 fall from 1 to 0: one block of 1/2 at 0.5. 0.8 holds 1/2 + 1/2 of two detections.
    found = isotonic(np.array([0.2, 0.4, 0.6, 0.8, 0.8]), np.array([0.25, 1.0, 0.0, 1.0, 0.5]))
    assert found is not None
    assert found.raw == pytest.approx((0, 0.2, 0.5, 0.8, 1))
    assert found.mapped == pytest.approx((0, mixed(0.25, 0.2), mixed(0.5, 0.5), mixed(0.75, 0.8), 1))


@pytest.mark.parametrize(("fit", "slopes"), [(platt, (2.0, 2.0)), (beta, (2.0, 0.5))])
def test_a_curve_that_made_the_targets_is_found_again(fit: object, slopes: tuple[float, float]) -> None:
    s = np.linspace(0.02, 0.98, 200)
    truth = 1 / (1 + np.exp(-(slopes[0] * np.log(s) - slopes[1] * np.log(1 - s) - 0.5)))
    found = fit(s, truth)  # type: ignore[operator]
    assert np.abs(found.apply(s) - truth).max() < 3e-3


def test_a_score_that_says_the_opposite_gets_no_curve() -> None:
    s = np.linspace(0.1, 0.9, 50)
    assert platt(s, 1 - s) is None
    assert beta(s, 1 - s) is None
    assert isotonic(np.empty(0), np.empty(0)) is None


def test_the_map_is_chosen_on_images_that_were_held_out() -> None:
    """Scores that are the square of what they should be are mended; what is right already stays as it is."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 40, 4000)
    truth = rng.random(4000)
    hits = rng.random(4000) < truth
    target = Target(Means.PRECISION, 0.5)
    squared = matches((truth**2).tolist(), hits.tolist(), images.tolist(), [200] * 40, ious=3)
    chosen = choose_map([squared], np.arange(40) % 2 == 0, target)
    assert chosen.method in ("platt", "beta", "isotonic")
    assert chosen.score_map.apply(np.array([0.25, 0.64])) == pytest.approx([0.5, 0.8], abs=0.05)
    assert (chosen.errors["identity"] or 0) > 0.1 > (chosen.errors[chosen.method] or 1)
    other = matches((truth**2).tolist(), hits.tolist(), images.tolist(), [200] * 40, ious=3, iou=0.6)
    iou = choose_map([other], np.arange(40) % 2 == 0, Target(Means.IOU, 0.5))
    assert iou.score_map.apply(np.array([0.25, 0.64])) == pytest.approx([0.3, 0.48], abs=0.05)
    nothing = matches([], [], [], [0] * 40, ious=3)
    assert choose_map([nothing], np.ones(40, np.bool_), target).score_map.is_identity


def test_thresholds_lie_between_the_last_score_that_is_kept_and_the_next() -> None:
    # Best first: 12 right, 3 wrong, 5 right, 5 wrong; 20 objects.
    hits = [True] * 12 + [False] * 3 + [True] * 5 + [False] * 5
    scores = [round(0.99 - 0.03 * n, 2) for n in range(25)]
    curve = Curve.of([matches(scores, hits, [0] * 25, [20])], 0)
    # 12/13 = 0.923, 12/14 = 0.857, 17/20 = 0.85, 17/21 = 0.81: the lowest threshold that reaches 0.85 keeps 20.
    assert scores[20] < reaching_threshold(curve, wanted("precision", 0.85), ScoreMap()) < scores[19]
    assert scores[13] < reaching_threshold(curve, wanted("precision", 0.9), ScoreMap()) < scores[12]
    # 16 of 20 objects are found with 19 detections.
    assert scores[19] < reaching_threshold(curve, wanted("recall", 0.8), ScoreMap()) < scores[18]
    halved = ScoreMap(raw=(0, 1), mapped=(0, 0.5))
    assert scores[20] / 2 < reaching_threshold(curve, wanted("precision", 0.85), halved) < scores[19] / 2


def test_equal_scores_are_not_parted() -> None:
    curve = Curve.of([matches([0.5] * 12 + [0.4] * 2, [True] * 10 + [False] * 4, [0] * 14, [10])], 0)
    assert curve.kept_M.tolist() == [12, 14]
    with pytest.raises(Unreachable, match=r"the most that any threshold reaches is 0\.833"):  # 10 / 12
        reaching_threshold(curve, wanted("precision", 0.9), ScoreMap())


def test_what_cannot_be_reached_is_told_in_a_sentence() -> None:
    few = Curve.of([matches([0.9] * 5, [True] * 5, [0] * 5, [8])], 0)
    with pytest.raises(Unreachable, match="has 5 detections, and fewer than 10 say nothing"):
        reaching_threshold(few, wanted("precision", 0.5), ScoreMap())
    with pytest.raises(Unreachable, match="has 8 objects, and fewer than 10 say nothing"):
        reaching_threshold(few, wanted("recall", 0.5), ScoreMap())
    right = Curve.of([matches([0.9] * 20, [True] * 20, [0] * 20, [40])], 0)
    with pytest.raises(Unreachable, match=r"reaches is 0\.500$"):
        reaching_threshold(right, wanted("recall", 0.6), ScoreMap())
    # Wilson's lower bound of 20 out of 20 at 95 %, one-sided: 20 / (20 + 1.645^2) = 0.881.
    with pytest.raises(Unreachable, match=r"reaches is 0\.881, with a confidence of 0\.95"):
        reaching_threshold(right, wanted("precision", 0.9, 0.95), ScoreMap())


def test_a_point_has_thresholds_of_classes_and_tells_of_both_halves() -> None:
    # Two images; the first is chosen on. `sure` is right from 0.5 on, `rare` has three detections.
    scores = [0.9 - 0.02 * n for n in range(20)]
    sure = matches(
        [*scores, *scores], [True] * 15 + [False] * 5 + [True] * 10 + [False] * 10, [0] * 20 + [1] * 20, [15, 20]
    )
    rare = matches([0.95, 0.9, 0.85], [False] * 3, [0, 0, 1], [1, 1])
    evidence = Evidence([sure, rare], ["sure", "rare"], 0, np.array([True, False]))
    rates = [wanted("precision", 0.85), wanted("precision", 0.99), wanted("recall", 0.5)]
    points, notes = find_points(rates, evidence, OWN, ScoreMap(), per_class=True)
    assert [point.name for point in points] == ["precision85", "recall50"]
    assert notes[0].startswith("precision85: rare does not reach precision 0.85 by itself: ")
    assert notes[1] == (
        "precision99 is left out: precision 0.99 is not reached: the most that any threshold reaches is 0.882"
    )  # 15 of 17
    first = points[0]
    assert set(first.class_thresholds) == {"sure"}
    # 17 of `sure` are kept (15/17 = 0.88, 15/18 = 0.83), 15 of them right; both of `rare` are wrong, and with one of
    # them all together are right in 15/18: their common threshold is above.
    assert 0.95 < first.score_threshold < 1
    assert (first.calibration.detections, first.calibration.objects) == (17, 16)
    assert first.calibration.precision.value == pytest.approx(15 / 17, abs=1e-6)
    assert first.test.recall.value == pytest.approx(10 / 21, abs=1e-6)
    assert first.test.f1.value == pytest.approx(2 * 10 / (17 + 21), abs=1e-6)
    # Half of all 16 objects: `sure` by itself would stop at 8 of 15, `rare` has one that is not found.
    assert (points[1].calibration.recall.value or 0) >= 0.5
    common, _ = find_points(rates[:1], evidence, OWN, ScoreMap(), per_class=False)
    assert common[0].class_thresholds == {}


def test_points_are_named_after_what_is_wanted() -> None:
    asked = read_wanted([0.9, 0.925, 0.9], [0.8], 0.75, 0.5)
    assert [point_name(one) for one in asked] == ["precision90-iou75", "precision92.5-iou75", "recall80-iou75"]
    assert point_name(wanted("recall", 0.8)) == "recall80"
    for wrong in ([90.0], [0.0], [1.0], [math.nan]):
        with pytest.raises(CalibrationError, match=r"--precision .*: a rate lies between 0 and 1, like 0\.9"):
            read_wanted(wrong, [], 0.5, 0.5)


def test_rates_and_their_intervals() -> None:
    counts = Counts(np.array([8, 2, 0]), np.array([10, 2, 0]), np.array([8, 6, 0]))
    found = measure_rates(counts)
    assert (found.images, found.objects, found.detections) == (3, 14, 12)
    assert [found.precision.value, found.recall.value, found.f1.value] == pytest.approx(
        [10 / 12, 10 / 14, 20 / 26], abs=1e-6
    )
    for rate in (found.precision, found.recall, found.f1):
        assert sorted([rate.low or 0, rate.value or 0, rate.high or 0]) == [rate.low, rate.value, rate.high]
    # By the textbook: 10 of 12 at 95 % is 0.552 to 0.953.
    assert wilson(10, 12, 1.959964) == pytest.approx((0.552, 0.953), abs=1e-3)
    assert wilson(10, 12, 0) == pytest.approx((10 / 12, 10 / 12))
    right = measure_rates(Counts(np.array([3, 4]), np.array([3, 4]), np.array([3, 4])))
    # Resampling never sees a wrong one; 7 of 7 by Wilson is 0.646 to 1.
    assert (right.precision.low, right.precision.high) == (pytest.approx(0.646, abs=1e-3), 1)
    empty = measure_rates(Counts(np.array([0]), np.array([0]), np.array([2])))
    assert (empty.precision.value, empty.recall.value) == (None, 0)


def test_the_error_of_a_resampling_is_that_of_the_images_repeated() -> None:
    rng = np.random.default_rng(1)
    image, score, target = rng.integers(0, 4, 50), rng.random(50), rng.random(50)
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 0], [0, 0, 0, 0]], np.float32)
    repeated = np.repeat(np.arange(50), weights[1, image].astype(int))
    expected = [binned_error(score, target), binned_error(score[repeated], target[repeated])]
    found = drawn_error(image, score, target, weights)
    assert found[:2] == pytest.approx(expected)
    assert np.isnan(found[2])


def test_a_map_that_mends_the_score_is_shown_to() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random(2000)
    before = matches(
        (truth**2).tolist(), (rng.random(2000) < truth).tolist(), rng.integers(0, 30, 2000).tolist(), [70] * 30, ious=3
    )
    after = ClassMatches(
        **{**{f: getattr(before, f) for f in before.__dataclass_fields__}, "scores_N": before.scores_N**0.5}
    )
    found = changes([before], [after], np.ones(30, np.bool_), Target(Means.PRECISION, 0.5))
    assert set(found) == {"D_ECE", "LaECE"}
    assert found["D_ECE"][2] < 0
    assert found["D_ECE"][0] == pytest.approx(-0.13, abs=0.05)  # 1/6 of a gap, less the noise of 80 in a bin


def test_lrp_of_resamplings_is_that_of_the_images_repeated() -> None:
    rng = np.random.default_rng(3)
    one = matches(
        rng.random(40).tolist(), (rng.random(40) < 0.5).tolist(), rng.integers(0, 4, 40).tolist(), [8, 8, 8, 8]
    )
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1]], np.float32)
    repeats = weights[1, one.image_N].astype(int)
    twice = ClassMatches(
        np.repeat(one.image_N, repeats),
        np.repeat(one.hit_TN, repeats, axis=1),
        np.repeat(one.counts_TN, repeats, axis=1),
        one.objects_I * weights[1].astype(np.int64),
        np.repeat(one.scores_N, repeats),
        np.repeat(one.iou_TN, repeats, axis=1),
    )
    expected = [mean_lrp([optimal_lrp(own)])["oLRP"] for own in (one, twice)]
    assert resampled_lrp([one], weights) == pytest.approx(expected, abs=1e-6)
    assert np.isnan(resampled_lrp([one], np.zeros((1, 4), np.float32))[0])


def ranked(shift: float, images: int = 20) -> Ranked:
    """`power 2` places its boxes exactly, the model's own ``shift`` pixels off in every image."""
    box = np.array([[10.0, 10, 20, 20]])
    objects = [ObjectBoxes(box, np.zeros(1, np.int64), np.zeros(1, np.bool_))] * images

    def live(fusion: Fusion, name: str, off: float) -> Live:
        found = [
            FoundObjects(box + np.array([off, 0, 0, 0]), np.zeros(1, np.int64), np.array([0.9 - 0.01 * n]))
            for n in range(images)
        ]
        return Live(Point(name, fusion, 0.0, 0.0), [], found, match_split(found, objects, 1))

    better = Fusion(name=FusionName.POWER, alpha=2.0)
    answers = {"power 2": live(better, "power 2", 0), "geometric 0.5": live(OWN, "geometric 0.5", shift)}
    points = tuple(one.point for one in answers.values())
    return Ranked(Sweep(points, {}, 0), answers, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", list(Metric))
def test_a_ranking_changes_where_the_gain_is_more_than_chance(metric: Metric) -> None:
    halves = Halves.of(range(20))
    shift = 7.0  # IoU 0.48: never right
    chosen = choose_fusion(ranked(shift), metric, OWN, halves, always=False)
    assert chosen.told.chosen == "power 2"
    assert "power 2 takes the place of geometric 0.5" in chosen.told.verdict
    assert chosen.told.candidates["geometric 0.5"]["test"] == pytest.approx(1.0 if metric is Metric.OLRP else 0.0)
    assert values(metric, chosen.live.matches, np.ones((1, 20), np.float32)) == pytest.approx(
        [0.0 if metric is Metric.OLRP else 1.0], abs=1e-6
    )


def test_a_ranking_stays_where_nothing_is_gained_or_it_may_be_chance() -> None:
    halves = Halves.of(range(20))
    same = choose_fusion(ranked(0.0), Metric.AP, Fusion(name=FusionName.POWER, alpha=2.0), halves, always=False)
    assert same.told.chosen == "power 2"
    assert "the best by AP" in same.told.verdict
    # One image of the calibration half is better: that may be chance.
    lucky = ranked(0.0)
    own = lucky.live["geometric 0.5"]
    moved = [own.found[0], own.found[1], *own.found[2:]]
    moved[4] = FoundObjects(
        own.found[4].boxes_N4 + np.array([7.0, 0, 0, 0]), own.found[4].labels_N, own.found[4].scores_N
    )
    objects = [ObjectBoxes(np.array([[10.0, 10, 20, 20]]), np.zeros(1, np.int64), np.zeros(1, np.bool_))] * 20
    worse = Live(own.point, [], moved, match_split(moved, objects, 1))
    maybe = Ranked(lucky.swept, {**lucky.live, "geometric 0.5": worse}, None)  # type: ignore[arg-type]
    kept = choose_fusion(maybe, Metric.AP, OWN, halves, always=False)
    assert (kept.told.chosen, "may be chance; geometric 0.5 stays" in kept.told.verdict) == ("geometric 0.5", True)
    forced = choose_fusion(maybe, Metric.AP, OWN, halves, always=True)
    assert (forced.told.chosen, "asked for all the same" in forced.told.verdict) == ("power 2", True)


def calibrated(**changes: object) -> Calibrated:
    choice = MapChoice(
        means="precision", match_iou=0.5, method="platt", cross_validation={}, before={}, after={}, verdict="It helps."
    )
    record = CalibrationRecord(
        of_version="1",
        dataset="pets",
        split="val",
        images_sha256="0" * 64,
        images=4,
        score_map=choice,
        calibox_version="0.1.0",
        created="2026-01-02T03:04:05Z",  # type: ignore[arg-type]
    )
    fields = {
        "fusion": OWN,
        "score_map": ScoreMap(raw=(0, 0.5, 1), mapped=(0, 0.6, 1)),
        "default_threshold": 0.4,
        "points": (small_point("precision90"),),
        "record": record,
    }
    return Calibrated(**(fields | changes))  # type: ignore[arg-type]


def test_the_calibrated_bundle_is_the_same_graph_under_the_next_version(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "small" / "3") as scratch:
        (scratch / "model.onnx").write_bytes(b"graph")
        (scratch / "example.jpg").write_bytes(b"picture")
        (scratch / "engines" / "openvino" / "fp32").mkdir(parents=True)
        (scratch / "engines" / "openvino" / "fp32" / "engine.json").write_bytes(b"{}")
        write_manifest(scratch, small_manifest(version="3", measured={"val": {"AP": 0.5}}))
    origin = read_bundle(tmp_path / "small" / "3")
    destination = destination_of(origin, None, None)
    assert destination == tmp_path / "small" / "4"
    new = publish(origin, calibrated(), destination)
    assert new.manifest.files == origin.manifest.files
    assert (new.folder / "engines/openvino/fp32/engine.json").read_bytes() == b"{}"
    assert (new.manifest.version, new.manifest.schema_version, new.manifest.thresholds.score) == ("4", 2, 0.4)
    assert new.manifest.measured == {"val": {"AP": 0.5}}
    assert [point.name for point in new.manifest.operating_points] == ["precision90"]
    assert read_bundle(tmp_path / "small" / "3") == origin
    with pytest.raises(BundleError, match="exists; choose another version"):
        publish(origin, calibrated(), destination)
    other = publish(origin, calibrated(fusion=Fusion(name=FusionName.PRODUCT)), tmp_path / "small" / "9")
    assert other.manifest.measured == {}  # was of another ranking
    assert json.loads((other.folder / "manifest.json").read_text())["fusion"]["name"] == "product"
    assert destination_of(origin, tmp_path / "x", "7") == tmp_path / "x" / "small" / "7"
    assert destination_of(origin, tmp_path / "x", None) == tmp_path / "x" / "small" / "4"  # never that of its origin
    copy_files(origin, tmp_path / "y", leave_out={"model.onnx"})
    assert [path.name for path in (tmp_path / "y").iterdir()] == ["example.jpg"]


def test_a_map_is_told_to_lower_one_error_and_to_raise_another() -> None:
    without = {"D_ECE": 0.2, "LaECE": 0.1, "LaECE0": 0.1, "LaACE0": None}
    with_map = {"D_ECE": 0.05, "LaECE": 0.15, "LaECE0": 0.1005, "LaACE0": None}
    assert map_verdict(with_map, without) == (
        "On these images the score map lowers D-ECE (0.200 to 0.050) and raises LaECE (0.100 to 0.150)."
    )
    assert map_verdict(without, without) == "On these images the score map changes no error."
