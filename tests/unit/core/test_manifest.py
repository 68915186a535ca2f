"""The manifest's schema: documented, strict, and the same after a trip through JSON."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from calibox_core.fusion import Fusion, FusionName
from calibox_core.manifest import ClassInfo, InputSpec, Manifest, Refinement, Thresholds
from calibox_core.operating_point import OperatingPoint
from calibox_core.score_map import ScoreMap
from tests.support.manifests import small_manifest, small_point


def properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of the schema and of the parts that it refers to, with its path."""
    for part, body in [("Manifest", schema), *schema["$defs"].items()]:
        for name, field in body.get("properties", {}).items():
            yield f"{part}.{name}", field


def test_every_field_is_described() -> None:
    fields = dict(properties(Manifest.model_json_schema()))
    # The walk really reaches the parts, and through them the core types.
    assert {"Manifest.files", "ClassInfo.category_id", "Fusion.alpha", "NmsAttributes.out_score"} <= set(fields)
    assert [path for path, field in fields.items() if len(field.get("description", "")) < 10] == []


def test_no_part_accepts_an_unknown_key() -> None:
    schema = Manifest.model_json_schema()
    parts = [schema, *(body for body in schema["$defs"].values() if body["type"] == "object")]
    assert len(parts) > 8
    assert all(body["additionalProperties"] is False for body in parts)


def test_json_brings_back_an_equal_manifest() -> None:
    manifest = small_manifest(
        score_map=ScoreMap(raw=(0.0, 0.4, 1.0), mapped=(0.0, 0.7, 1.0)),
        measured={"val": {"AP": 0.1 + 0.2, "APl": None}},
        files={"model.onnx": "a" * 64},
    )
    assert Manifest.model_validate_json(manifest.model_dump_json(indent=2)) == manifest


@pytest.mark.parametrize(
    ("path", "key"),
    [((), "colour"), (("input",), "depth"), (("classes", 0), "id"), (("fusion",), "beta"), (("nms",), "top_k")],
)
def test_an_unknown_key_is_named(path: tuple[str | int, ...], key: str) -> None:
    document = json.loads(small_manifest().model_dump_json())
    part = document
    for step in path:
        part = part[step]
    part[key] = 1
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate_json(json.dumps(document))
    assert [error["loc"] for error in caught.value.errors()] == [(*path, key)]


@pytest.mark.parametrize("key", ["name", "classes", "input", "fusion", "nms", "quality", "dataset", "provenance"])
def test_a_missing_key_is_named(key: str) -> None:
    document = json.loads(small_manifest().model_dump_json())
    del document[key]
    with pytest.raises(ValidationError, match=key):
        Manifest.model_validate_json(json.dumps(document))


def test_another_schema_version_is_refused() -> None:
    with pytest.raises(ValidationError, match="schema_version"):
        small_manifest(schema_version=3)


def test_a_manifest_without_operating_points_is_what_readers_of_schema_1_know() -> None:
    document = json.loads(small_manifest().model_dump_json())
    assert document["schema_version"] == 1
    assert not {"operating_points", "calibration"} & set(document)
    assert Manifest.model_validate(document) == small_manifest()


def test_operating_points_are_of_schema_2() -> None:
    pointed = small_manifest(schema_version=2, operating_points=(small_point("precision90"),))
    document = json.loads(pointed.model_dump_json())
    assert document["schema_version"] == 2
    assert document["operating_points"][0]["class_thresholds"] == {"dog": 0.25}
    assert Manifest.model_validate(document) == pointed
    with pytest.raises(ValidationError, match="belong to schema_version 2, and this is 1"):
        Manifest.model_validate({**document, "schema_version": 1})


@pytest.mark.parametrize(
    ("points", "complaint"),
    [
        ([small_point("a1"), small_point("a1")], "operating_points repeat a name: a1, a1"),
        ([small_point("a1", class_thresholds={"cow": 0.5})], r"a1 has thresholds of unknown classes: \['cow'\]"),
    ],
)
def test_points_that_nobody_could_ask_for_are_refused(points: list[OperatingPoint], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        small_manifest(schema_version=2, operating_points=tuple(points))


@pytest.mark.parametrize("name", ["", "90", "Precision", "a b", "a/b", "a&b", "a" * 65])
def test_the_name_of_a_point_is_a_word_of_a_query(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        small_point(name)


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", "-flag", "with space", "ä", "a" * 101, "a\n"])
def test_a_name_is_one_path_segment(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        small_manifest(name=name)


@pytest.mark.parametrize("version", ["0", "01", "-1", "1.0", "v1", "", "1\n"])
def test_a_version_is_a_whole_number_from_one(version: str) -> None:
    with pytest.raises(ValidationError, match="version"):
        small_manifest(version=version)


def test_repeated_classes_are_named() -> None:
    cat = ClassInfo(name="cat", category_id=1)
    with pytest.raises(ValidationError, match=r"repeat a name: \['cat'\]"):
        small_manifest(classes=(cat, ClassInfo(name="cat", category_id=2)))
    with pytest.raises(ValidationError, match=r"repeat a category_id: \[1\]"):
        small_manifest(classes=(cat, ClassInfo(name="dog", category_id=1)))


def test_labels_follow_the_order_of_the_classes() -> None:
    assert small_manifest().label_names == ("cat", "dog")


def test_a_manifest_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        small_manifest().name = "other"


@pytest.mark.parametrize(("field", "value"), [("score", -0.1), ("iou", 1.1), ("score", float("nan"))])
def test_thresholds_are_probabilities(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        Thresholds.model_validate({field: value})


REFINEMENT = Refinement(steps=5, step_size=0.5, early_stop=0.001, tolerance=-0.01)


def test_refinement_is_described_where_there_is_one_and_nowhere_else() -> None:
    assert small_manifest(can_refine=True, refinement=REFINEMENT).refinement == REFINEMENT
    for contradiction in ({"can_refine": True}, {"refinement": REFINEMENT}):
        with pytest.raises(ValidationError, match="can_refine and refinement contradict each other"):
            small_manifest(**contradiction)


def test_requests_cannot_get_more_steps_by_default_than_they_can_ask_for() -> None:
    with pytest.raises(ValidationError, match="default_steps is 6, more than the 5 that there are"):
        Refinement.model_validate(REFINEMENT.model_dump() | {"default_steps": 6})


def test_defaults_are_those_of_the_architecture() -> None:
    manifest = small_manifest(fusion=Fusion(name=FusionName.PRODUCT))
    assert manifest.opset == 20
    assert (manifest.input.letterbox, manifest.input.pad_value) == ("centred", 114)
    assert manifest.score_map.is_identity
    assert not manifest.can_refine
    assert InputSpec.model_fields["height"].is_required()
