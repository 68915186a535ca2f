"""Two results on the same images: differences, intervals, and files that are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibox_client.evaluation.choices import Half, RankBy
from calibox_client.evaluation.compare import compare_and_tell, compare_results, read_results, refuse_beside_compare
from calibox_client.evaluation.details import truth_of
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.limits import missed, read_limits
from calibox_client.evaluation.source import Source
from calibox_core.coco_metrics import coco_metrics, load_ground_truth
from tests.support.oracle import objects_of, write_coco


def rows_of(document: dict[str, Any], moved: float, seed: int = 0) -> list[dict[str, Any]]:
    """The objects, each moved by chance, with scores by chance."""
    rng = np.random.default_rng(seed)
    rows = []
    for image in document["images"]:
        for one in objects_of(document, image["id"]):
            x1, y1, x2, y2 = one["box"]
            x, y = rng.normal(0, moved, 2)
            scores = {name: float(rng.random()) for name in RankBy}
            place = {"image_id": image["id"], "category_id": one["label_id"]}
            rows.append({**place, "bbox": [x1 + x, y1 + y, x2 - x1, y2 - y1], **scores})
    return rows


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    return write_coco(tmp_path, images=40)


def test_differences_are_those_of_pycocotools_and_intervals_hold_them(document: dict[str, Any]) -> None:
    near, far = rows_of(document, 2), rows_of(document, 8, seed=1)
    truth = truth_of(document, [image["id"] for image in document["images"]])
    found = compare_results(far, near, truth, RankBy.SCORE)["metrics"]
    first, second = (coco_metrics(load_ground_truth(document), rows)[0] for rows in (far, near))
    for name in ("AP", "AP50", "AP75", "AP90"):
        row = found[name]
        assert (row["first"], row["second"]) == (pytest.approx(first[name]), pytest.approx(second[name]))
        assert row["low"] <= row["difference"] <= row["high"]
    assert found["AP"]["low"] > 0.1
    assert found["oLRP"]["difference"] < 0


def test_the_same_results_differ_by_nothing(document: dict[str, Any]) -> None:
    rows = rows_of(document, 4)
    truth = truth_of(document, [image["id"] for image in document["images"]])
    for row in compare_results(rows, rows, truth, RankBy.SCORE)["metrics"].values():
        assert row["difference"] == 0
        assert (row.get("low", 0), row.get("high", 0)) == (0, 0)


def test_it_is_told_as_json_and_to_people(
    document: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, moved in zip(paths, (2, 8), strict=True):
        path.write_text(json.dumps(rows_of(document, moved)))
    source = Source(tmp_path / "images", document)
    compare_and_tell(paths, source, Half.TEST, RankBy.SCORE, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["first"], told["half"], told["draws"]) == (20, str(paths[0]), "test", 1000)
    compare_and_tell(paths, source, Half.TEST, RankBy.SCORE, as_json=False)
    text = capsys.readouterr().out
    assert f"{told['metrics']['AP']['difference']:+.4f}" in text
    assert "95 % interval" in text


def test_files_that_are_no_results_of_these_images_are_refused(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_results(path, {1}, RankBy.SCORE)
    path.write_text("{")
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_results(path, {1}, RankBy.SCORE)
    path.write_text(json.dumps([{"image_id": 1, "category_id": 5, "bbox": [0, 0, 1, 1]}]))
    with pytest.raises(EvaluationError, match="entries lack score"):
        read_results(path, {1}, RankBy.SCORE)
    path.write_text(json.dumps(rows_of(document, 1)))
    with pytest.raises(EvaluationError, match="images that the annotations do not"):
        read_results(path, {1, 2}, RankBy.SCORE)


def test_options_that_need_a_server_are_refused() -> None:
    refuse_beside_compare({"--sweep": False, "--report": None})
    with pytest.raises(EvaluationError, match="leave --sweep, --fail-under out"):
        refuse_beside_compare({"--sweep": True, "--report": None, "--fail-under": ["AP=0.3"]})


def test_limits_are_read_and_judged() -> None:
    limits = read_limits(["AP=0.30", "AP50 = 0.5"])
    assert limits == {"AP": 0.3, "AP50": 0.5}
    assert missed(limits, {"AP": 0.3, "AP50": 0.7, "images": 5}) == []
    assert missed(limits, {"AP": 0.2999, "AP50": None}) == [
        "AP is 0.2999, below 0.3",
        "AP50 is not measured, below 0.5",
    ]
    with pytest.raises(EvaluationError, match="knows no mAP; there are AP"):
        missed({"mAP": 0.1}, {"AP": 0.3, "images": 5})


@pytest.mark.parametrize("text", ["AP", "AP=", "AP=30", "AP=nan", "=0.3", "AP=-0.1"])
def test_limits_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(EvaluationError, match=r"like AP=0\.30"):
        read_limits([text])


def test_images_without_objects_are_no_ground_for_a_comparison(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[]")
    empty = {**document, "annotations": []}
    with pytest.raises(EvaluationError, match="have no objects"):
        compare_and_tell((path, path), Source(tmp_path, empty), Half.ALL, RankBy.SCORE, as_json=True)
