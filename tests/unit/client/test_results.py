"""Typed results: arrays, iteration, JSON, supervision."""

import sys

import numpy as np
import pytest

from calibox_client import Detection, Detections, ImageInputError, MissingPackageError

FIRST = Detection((1.0, 2.0, 30.5, 40.25), "WBC", 2, 0.9, 0.95, 0.85)
SECOND = Detection((5.0, 6.0, 7.0, 8.0), "RBC", 1, 0.4, 0.3, 0.5)
FOUND = Detections((FIRST, SECOND), width=64, height=48, model="cells", version="3", timing={"total": 2.0})
NOTHING = Detections((), width=64, height=48, model="cells", version="3")


def test_arrays_have_the_promised_types() -> None:
    assert FOUND.boxes.tolist() == [[1.0, 2.0, 30.5, 40.25], [5.0, 6.0, 7.0, 8.0]]
    assert (FOUND.boxes.dtype, FOUND.boxes.shape) == (np.float32, (2, 4))
    assert FOUND.labels == ("WBC", "RBC")
    assert FOUND.label_ids.tolist() == [2, 1]
    assert FOUND.label_ids.dtype == np.int64
    assert FOUND.scores.tolist() == pytest.approx([0.9, 0.4])
    assert FOUND.classification_scores.tolist() == pytest.approx([0.95, 0.3])
    assert FOUND.localization_scores.tolist() == pytest.approx([0.85, 0.5])
    assert FOUND.scores.dtype == FOUND.classification_scores.dtype == FOUND.localization_scores.dtype == np.float32


def test_iteration_gives_detections_in_order() -> None:
    assert list(FOUND) == [FIRST, SECOND]
    assert (FOUND[0], FOUND[-1], len(FOUND)) == (FIRST, SECOND, 2)


def test_results_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        FOUND.width = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        FIRST.score = 1.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        FOUND.boxes[0, 0] = 7


def test_as_json_is_plain_values() -> None:
    assert FOUND.as_json() == {
        "model": "cells",
        "version": "3",
        "width": 64,
        "height": 48,
        "detections": [FIRST.as_json(), SECOND.as_json()],
    }


def test_conversion_to_supervision() -> None:
    pytest.importorskip("supervision", reason="the extra supervision is not installed")
    converted = FOUND.to_supervision()
    assert np.array_equal(converted.xyxy, FOUND.boxes)
    assert np.array_equal(converted.confidence, FOUND.scores)
    assert np.array_equal(converted.class_id, FOUND.label_ids)
    assert converted.data["class_name"].tolist() == ["WBC", "RBC"]
    assert np.array_equal(converted.data["classification_score"], FOUND.classification_scores)
    assert np.array_equal(converted.data["localization_score"], FOUND.localization_scores)
    kept = converted[converted.confidence > 0.5]  # supervision filters its data along
    assert kept.data["class_name"].tolist() == ["WBC"]


def test_conversion_of_nothing_to_supervision() -> None:
    pytest.importorskip("supervision", reason="the extra supervision is not installed")
    assert len(NOTHING.to_supervision()) == 0


def test_conversion_to_coco_results() -> None:
    first, second = FOUND.to_coco(17)
    assert first == {
        "image_id": 17,
        "category_id": 2,
        "bbox": [1.0, 2.0, 29.5, 38.25],
        "score": 0.9,
        "classification_score": 0.95,
        "localization_score": 0.85,
    }
    assert (second["image_id"], second["bbox"]) == (17, [5.0, 6.0, 2.0, 2.0])
    assert NOTHING.to_coco(17) == []


def test_conversion_to_pandas() -> None:
    pytest.importorskip("pandas", reason="the extra pandas is not installed")
    table = FOUND.to_pandas()
    assert list(table.columns) == [
        *("x1", "y1", "x2", "y2", "label", "label_id", "score", "classification_score", "localization_score")
    ]
    assert table.values.tolist() == [
        [1.0, 2.0, 30.5, 40.25, "WBC", 2, 0.9, 0.95, 0.85],
        [5.0, 6.0, 7.0, 8.0, "RBC", 1, 0.4, 0.3, 0.5],
    ]
    nothing = NOTHING.to_pandas()
    assert list(nothing.columns) == list(table.columns)
    assert list(nothing.dtypes) == list(table.dtypes)  # tables of several images can be put together
    assert len(nothing) == 0


def test_conversion_without_pandas_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'calibox\[pandas\]'"):
        FOUND.to_pandas()


def test_conversion_without_supervision_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'calibox\[supervision\]'"):
        FOUND.to_supervision()


def test_drawing_on_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ImageInputError, match="64 x 48 pixels, this one has 48 x 64"):
        FOUND.draw(np.zeros((64, 48, 3), np.uint8))
