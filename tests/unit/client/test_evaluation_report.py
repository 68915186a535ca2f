"""The page of an evaluation in which there is little to show."""

from pathlib import Path
from typing import Any

import pytest

from calibox_client.evaluation.choices import RankBy
from calibox_client.evaluation.details import truth_of
from calibox_client.evaluation.html_report import html_page, verdict
from calibox_client.evaluation.journal import Answer
from calibox_client.evaluation.metrics import coco_results, measure
from calibox_client.evaluation.report import full_document, summary_document, summary_text
from tests.support.oracle import write_coco

FACTS = {
    **{"model": "tiny", "version": "1", "images": 3, "images_resumed": 0, "detections": 0, "retries": 0},
    **{"images_per_second": None, "concurrency": 2, "half": "all", "rank_by": "score", "output": "r.json"},
    "parameters": {"max_detections": 100},
}
SCORES = {str(name): 0.5 for name in RankBy}


def page_of(document: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[str, str]:
    """The page and the text of results in the first of three images."""
    answers = [Answer(image["id"], 1.0, []) for image in document["images"]]
    answers[0].detections.extend(detections)
    truth = truth_of(document, [answer.image_id for answer in answers])
    measured = measure(document, truth, coco_results(answers), answers, RankBy.SCORE)
    summary = summary_document(measured, FACTS)
    return html_page(full_document(measured, summary)), summary_text(measured, summary)


def test_nothing_found_is_a_page_and_a_text(tmp_path: Path) -> None:
    page, text = page_of(write_coco(tmp_path, images=3), [])
    assert "(LaECE0): none of them" in page
    assert page.count("<svg") == 7
    assert "AP 0.000" in text


def test_no_object_is_a_page_without_an_average_precision(tmp_path: Path) -> None:
    document = {**write_coco(tmp_path, images=3), "annotations": []}
    page, text = page_of(document, [{"category_id": 5, "bbox": [1, 1, 9, 9], **SCORES}])
    assert "<div>-<span>AP</span></div>" in page
    assert "AP -" in text


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    document = write_coco(tmp_path, images=3)
    document["categories"][0]["name"] = "<script>alert(1)</script>"
    page, _ = page_of(document, [])
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("delta", "differing", "told"),
    [
        ([0.02, 0.01, 0.03], 0, "more than chance. Of the live ones every live answer was the one made offline."),
        ([0.02, -0.01, 0.05], 3, "which may be chance. Of the live ones up to 3 of 9 live answers differ"),
        ([-0.02, -0.03, -0.01], 0, "-0.020 against `classification` (95 %: -0.030 to -0.010), more than chance"),
    ],
)
def test_the_verdict_says_no_more_than_the_interval(delta: list[float], differing: int, told: str) -> None:
    one = {"name": "product", "test_AP": 0.5, "delta_AP": delta, "images_that_differ": differing}
    said = verdict({"chosen": "product", "confirmed": [one], "points": [0] * 25, "images": 9})
    assert told in said
    assert said.startswith("25 rankings were tried offline")
