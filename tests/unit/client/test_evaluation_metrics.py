"""Accuracy equal to pycocotools, and percentiles by hand."""

import contextlib
import copy
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from calibox_client.evaluation.choices import RankBy
from calibox_client.evaluation.details import truth_of
from calibox_client.evaluation.journal import Answer
from calibox_client.evaluation.metrics import coco_results, latency_summary, measure
from tests.support.data import dataset
from tests.support.oracle import write_coco


def noisy_answers(document: dict[str, Any]) -> list[Answer]:
    """Objects moved, doubled and dropped at random; scores that disagree with each other."""
    rng = random.Random(4)
    answers = {image["id"]: Answer(image["id"], 1.0, []) for image in document["images"]}
    for entry in document["annotations"]:
        for _ in range(rng.randrange(3)):
            x, y, width, height = entry["bbox"]
            box = [x + rng.gauss(0, width / 10), y + rng.gauss(0, height / 10), width * rng.uniform(0.7, 1.4), height]
            scores = {str(name): rng.random() for name in RankBy}
            answers[entry["image_id"]].detections.append({"category_id": entry["category_id"], "bbox": box, **scores})
    return list(answers.values())


def pycocotools_stats(annotations: Path, results: list[dict[str, Any]], rank_by: str, tmp_path: Path) -> list[float]:
    """The twelve numbers of pycocotools, by its own readers from files."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    written = tmp_path / "plain.json"
    plain = [{k: v for k, v in r.items() if not k.endswith("score")} | {"score": r[rank_by]} for r in results]
    written.write_text(json.dumps(plain))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(written)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


@pytest.mark.parametrize("rank_by", list(RankBy))
@pytest.mark.parametrize("name", ["bccd", "coco80_mini"])
def test_metrics_on_real_data_are_those_of_pycocotools(name: str, rank_by: RankBy, tmp_path: Path) -> None:
    folder = dataset(name)
    document = folder.annotations("val")
    answers = noisy_answers(document)
    results = coco_results(answers)
    before = copy.deepcopy(document), copy.deepcopy(results)
    measured = measure(document, truth_of(document, [a.image_id for a in answers]), results, answers, rank_by)
    assert (document, results) == before
    stats = pycocotools_stats(folder.annotations_path("val"), results, rank_by, tmp_path)
    keys = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5, "AR1": 6, "AR10": 7, "AR100": 8}
    expected = {key: None if stats[index] < 0 else stats[index] for key, index in keys.items()}
    assert {key: measured.coco[key] for key in keys} == pytest.approx(expected, abs=1e-9)
    assert 0.05 < stats[0] < 0.95  # neither everything nor nothing was right


def test_ids_from_0_and_missing_area_and_crowd_change_nothing(tmp_path: Path) -> None:
    """Exporters number annotations from 0, which pycocotools itself takes for "no match"."""
    document = write_coco(tmp_path)
    assert document["annotations"][0]["id"] == 0
    assert "area" not in document["annotations"][0]
    answers = [
        Answer(
            image["id"],
            1.0,
            [
                {"category_id": a["category_id"], "bbox": a["bbox"], **{str(name): 1.0 for name in RankBy}}
                for a in document["annotations"]
                if a["image_id"] == image["id"]
            ],
        )
        for image in document["images"]
    ]
    measured = measure(
        document, truth_of(document, [a.image_id for a in answers]), coco_results(answers), answers, RankBy.SCORE
    )
    assert measured.coco["AP"] == pytest.approx(1.0, abs=1e-9)


def test_percentiles_by_hand() -> None:
    summary = latency_summary([float(n) for n in range(101)])
    assert summary == {"mean": 50.0, "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert latency_summary([3.0])["p99"] == 3.0
    assert set(latency_summary([]).values()) == {None}


def test_results_do_not_depend_on_the_order_of_answers() -> None:
    found = [{"category_id": 1, "bbox": [0, 0, 1, 1], "score": score} for score in (0.9, 0.2)]
    answers = [Answer(3, 1.0, found[:1]), Answer(1, 1.0, found), Answer(2, 1.0, [])]
    assert coco_results(answers) == coco_results(answers[::-1])
    assert [(entry["image_id"], entry["score"]) for entry in coco_results(answers)] == [(1, 0.9), (1, 0.2), (3, 0.9)]
