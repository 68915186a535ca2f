"""Per-request parameters: defaults, ranges, and sentences that name parameter, value and range."""

import math

import pytest

from calibox_core.fusion import Exponents, Fusion, FusionName
from calibox_core.manifest import ClassInfo, Refinement, Thresholds
from calibox_core.nms import NmsAttributes
from calibox_core.score_map import ScoreMap
from calibox_server.errors import ParameterError
from calibox_server.parameters import KNOWN, Parameters, read_parameters, read_target
from calibox_server.queue import Priority
from calibox_server.tiles import Tiling
from tests.support.manifests import small_manifest, small_point

MANIFEST = small_manifest(
    fusion=Fusion(name=FusionName.GEOMETRIC, alpha=0.25),
    thresholds=Thresholds(score=0.35, iou=0.6),
    nms=NmsAttributes(max_detections=40),
    classes=(
        ClassInfo(name="cat", category_id=17),
        ClassInfo(name="dog", category_id=18),
        ClassInfo(name="cow, brown", category_id=21),
    ),
)
REFINING = small_manifest(
    can_refine=True,
    refinement=Refinement(steps=5, default_steps=2, step_size=0.5, early_stop=0.001, tolerance=-0.01),
)


def read(manifest=MANIFEST, images: int = 1, **given: object) -> Parameters:
    values = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    read_target(values)
    return read_parameters(values, manifest, default_timeout_ms=1000, images=images)


def test_without_parameters_the_manifest_decides() -> None:
    assert read() == Parameters(
        exponents=Exponents(0.25, 0.75, 0.0),
        score_threshold=0.35,
        iou_threshold=0.6,
        max_detections=40,
        classes=None,
        refine_steps=(0,),
        timeout_ms=1000,
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"fusion": "classification"}, (1, 0, 0)),
        ({"fusion": "product"}, (1, 1, 0)),
        ({"fusion": "geometric", "alpha": "0.1"}, (0.1, 0.9, 0)),
        ({"fusion": "geometric"}, (0.25, 0.75, 0)),
        ({"alpha": 0.5}, (0.5, 0.5, 0)),
        ({"fusion": "power", "alpha": 2}, (1, 2, 0)),
        ({"fusion": "power"}, (1, 0.5, 0)),
        ({"fusion": "gaussian", "sigma": "0.5"}, (1, 0, 2)),
        ({"fusion": "localization"}, (0, 1, 0)),
    ],
)
def test_a_fusion_becomes_three_exponents(given: dict[str, object], expected: tuple[float, ...]) -> None:
    assert read(**given).exponents == pytest.approx(expected)


@pytest.mark.parametrize("name", ["score_threshold", "iou_threshold"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", -0.01, "1.01", "much", "", True, math.nan, [[1]], {"a": 1}])
def test_a_threshold_outside_of_its_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(ParameterError, match=rf"^{name} must be a number within 0\.\.1, got "):
        read(**{name: value})


@pytest.mark.parametrize("value", ["0", "41", "1.5", "-1", "ten", "", 2.0, True, "9" * 30])
def test_max_detections_is_a_whole_number_up_to_what_the_graph_returns(value: object) -> None:
    with pytest.raises(ParameterError, match=r"^max_detections must be a whole number within 1\.\.40, got "):
        read(max_detections=value)


@pytest.mark.parametrize("value", ["0", "600001", "nan", "-5"])
def test_a_timeout_outside_of_its_range_is_refused(value: str) -> None:
    with pytest.raises(ParameterError, match=r"^timeout_ms must be a number within 1\.\.600000, got "):
        read(timeout_ms=value)


def test_values_at_the_ends_of_their_ranges_are_accepted() -> None:
    found = read(score_threshold="1", iou_threshold=0, max_detections="1", timeout_ms=1)
    assert (found.score_threshold, found.iou_threshold, found.max_detections, found.timeout_ms) == (1, 0, 1, 1)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"fusion": "sum"}, r"fusion must be one of classification, product, .*, got 'sum'"),
        ({"fusion": 3}, r"fusion must be one of .*, got 3"),
        ({"fusion": "geometric", "alpha": 1.5}, r"alpha must be within 0\.\.1 for the fusion geometric, got 1\.5"),
        ({"fusion": "power", "alpha": 17}, r"alpha must be a number within 0\.\.16, got 17"),
        ({"fusion": "power", "alpha": "nan"}, r"alpha must be a number within 0\.\.16, got 'nan'"),
        ({"fusion": "gaussian", "sigma": 0}, r"sigma must be a number from 0\.001 on, got 0"),
        ({"fusion": "gaussian", "sigma": "inf"}, r"sigma must be a number from 0\.001 on, got 'inf'"),
        ({"fusion": "product", "alpha": 0.5}, r"alpha belongs to the fusion geometric and power.*is product"),
        ({"sigma": 1}, r"sigma belongs to the fusion gaussian, and this request's is geometric"),
    ],
)
def test_a_fusion_that_is_not_one_is_refused(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        read(**given)


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ("cat", {0}),
        ("dog,cat", {0, 1}),
        ([" dog ", "17"], {0, 1}),
        ("18", {1}),
        ([17, "dog"], {0, 1}),
        ("cow, brown", {2}),
        (["cow, brown", "cat"], {0, 2}),
    ],
)
def test_classes_are_named_or_numbered(value: object, labels: set[int]) -> None:
    assert read(classes=value).classes == labels


@pytest.mark.parametrize("value", ["bird", "cat,bird", "0", "", 99, True, 1.5])
def test_an_unknown_class_is_refused(value: object) -> None:
    with pytest.raises(ParameterError, match=r"^classes must be .*, got "):
        read(classes=value)


def test_a_long_list_of_classes_is_cut_in_the_sentence() -> None:
    classes = tuple(ClassInfo(name=f"c{i}", category_id=i) for i in range(80))
    with pytest.raises(ParameterError, match=r"c19 and 60 more \(or their label ids\), got 'x'"):
        read(small_manifest(classes=classes), classes="x")


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        (None, (2, 2, 2)),
        (True, (5, 5, 5)),
        ("true", (5, 5, 5)),
        ("False", (0, 0, 0)),
        (3, (3, 3, 3)),
        ("5", (5, 5, 5)),
        (0, (0, 0, 0)),
        ([True, 0, None], (5, 0, 2)),
        (["1", "true", "false"], (1, 5, 0)),
        ([], (2, 2, 2)),
    ],
)
def test_refine_is_a_choice_or_a_number_of_steps_for_all_images_or_for_each(
    value: object, steps: tuple[int, ...]
) -> None:
    assert read(REFINING, images=3, refine=value).refine_steps == steps


@pytest.mark.parametrize("value", [6, "6", "9" * 30, -1, 1.0, "2.5", "yes", "", math.nan, [[1]]])
def test_steps_that_the_model_does_not_have_are_refused(value: object) -> None:
    with pytest.raises(ParameterError, match=r"^refine must be true, false or a number of steps.*, got "):
        read(REFINING, refine=value)


def test_a_value_for_each_of_other_images_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"^refine is given 2 times for 3 images; give it once, or once for each"):
        read(REFINING, images=3, refine=[1, 2])


@pytest.mark.parametrize("value", [True, "true", 1, "3"])
def test_a_model_that_cannot_refine_says_so(value: object) -> None:
    with pytest.raises(ParameterError, match=r"^refine is .*, and small/1 cannot refine its boxes; leave it out, or"):
        read(refine=value)
    assert read(refine=False) == read(refine=0) == read()


def test_an_unknown_parameter_is_answered_with_those_that_exist() -> None:
    with pytest.raises(ParameterError, match="there is no parameter 'point', 'tresh'; known are ") as refusal:
        read(tresh=1, point="x")
    assert all(name in str(refusal.value) for name in KNOWN)


def test_a_parameter_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ParameterError, match="score_threshold is given 2 times"):
        read(score_threshold=["0.1", "0.2"])


def test_a_null_counts_as_absent() -> None:
    assert read(score_threshold=None, classes=None, fusion=None) == read()


def test_a_value_is_cut_before_it_is_repeated() -> None:
    with pytest.raises(ParameterError) as refusal:
        read(score_threshold="x" * 10_000)
    assert len(str(refusal.value)) < 200


def test_the_score_threshold_goes_through_the_inverse_of_the_score_map() -> None:
    mapped = small_manifest(score_map=ScoreMap(raw=(0, 0.4, 1), mapped=(0.0, 0.8, 1.0)))
    assert read(mapped, score_threshold=0.8).score_threshold == pytest.approx(0.4)


def test_the_target_is_a_name_and_a_version() -> None:
    assert read_target({"model": ["bccd"], "version": [2]}) == ("bccd", "2")
    assert read_target({}) == (None, None)


@pytest.mark.parametrize("given", [{"model": [3]}, {"version": [[1]]}, {"version": [True]}])
def test_a_target_that_is_not_text_is_refused(given: dict[str, list[object]]) -> None:
    with pytest.raises(ParameterError, match="must be text, got"):
        read_target(given)


def test_priority_is_normal_unless_it_is_high() -> None:
    assert read().priority is Priority.NORMAL
    assert read(priority="high").priority is Priority.HIGH
    assert read(priority="normal").priority is Priority.NORMAL
    with pytest.raises(ParameterError, match="priority must be one of high, normal, got 'HIGH'"):
        read(priority="HIGH")


@pytest.mark.parametrize(
    ("given", "tiling"),
    [
        ({}, None),
        ({"tile": "false"}, None),
        ({"tile": False}, None),
        ({"tile": "true"}, Tiling(128, 96, 0.2)),
        ({"tile": True, "overlap": 0.5}, Tiling(128, 96, 0.5)),
        ({"tile": "640", "overlap": "0"}, Tiling(640, 640, 0.0)),
        ({"tile": 32}, Tiling(32, 32, 0.2)),
    ],
)
def test_tiles_are_of_the_input_s_size_or_square(given: dict[str, object], tiling: Tiling | None) -> None:
    assert read(**given).tiling == tiling


@pytest.mark.parametrize("value", ["31", 31, -64, 6.4, "", "64px", "1e3", 10**7])
def test_a_tile_that_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ParameterError, match="tile must be true, false or a whole number of pixels from 32 on, got"):
        read(tile=value)


POINTED = small_manifest(
    schema_version=2,
    score_map=ScoreMap(raw=(0, 1), mapped=(0, 0.5)),
    operating_points=(small_point("precision90"), small_point("recall80", class_thresholds={})),
)


def test_an_operating_point_sets_fusion_and_thresholds_on_the_scale_of_the_graph() -> None:
    found = read(POINTED, operating_point="precision90")
    assert found.exponents == (1, 2, 0)
    assert found.class_thresholds == pytest.approx((1.0, 0.5))  # cat has the point's own
    assert found.score_threshold == pytest.approx(0.5)  # the least, for the graph


def test_a_point_without_thresholds_of_classes_is_what_its_values_are_one_by_one() -> None:
    explicit = read(POINTED, fusion="power", alpha=2, score_threshold=0.5)
    assert read(POINTED, operating_point="recall80") == explicit


def test_what_a_request_names_itself_goes_before_its_point() -> None:
    point = read(POINTED, operating_point="precision90")
    moved = read(POINTED, operating_point="precision90", alpha=3)
    assert (moved.exponents, moved.class_thresholds) == ((1, 3, 0), point.class_thresholds)
    assert read(POINTED, operating_point="precision90", fusion="product").exponents == (1, 1, 0)
    lower = read(POINTED, operating_point="precision90", score_threshold=0.1)
    assert (lower.score_threshold, lower.class_thresholds) == (pytest.approx(0.2), None)


@pytest.mark.parametrize("value", ["precision", "", 90, True])
def test_an_unknown_point_is_answered_with_those_that_there_are(value: object) -> None:
    with pytest.raises(ParameterError, match=r"^operating_point must be one of precision90, recall80, got "):
        read(POINTED, operating_point=value)


def test_a_model_without_points_says_how_to_get_some() -> None:
    with pytest.raises(ParameterError, match=r"'x', and small/1 has none; .* `calibox calibrate`"):
        read(operating_point="x")
