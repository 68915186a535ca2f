"""The whole evaluation against a played server: what is asked, resumed, written and measured."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from calibox_client.evaluation.choices import Half, RankBy
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.evaluate import Evaluation, run_evaluation
from calibox_client.evaluation.source import Source
from calibox_core.coco_metrics import coco_metrics, load_ground_truth
from tests.support.http import problem
from tests.support.oracle import Oracle, objects_of, write_coco

LABELS = {5: "red", 9: "blue"}


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """Twelve images, written below the test's folder."""
    return write_coco(tmp_path)


@pytest.fixture
def evaluation(tmp_path: Path, document: dict[str, Any]) -> Evaluation:
    """An evaluation on them."""
    return Evaluation(
        server="http://oracle.test",
        source=Source(tmp_path / "images", document),
        output=tmp_path / "out" / "results.json",
        concurrency=3,
        half=Half.ALL,
        rank_by=RankBy.SCORE,
        restart=False,
        model=None,
        version=None,
        parameters={"score_threshold": 0.0},
    )


@pytest.fixture
def oracle(document: dict[str, Any]) -> Oracle:
    """A server that finds every object."""
    return Oracle(lambda image_id: objects_of(document, image_id), LABELS)


def test_an_oracle_reaches_ap_1(evaluation: Evaluation, oracle: Oracle) -> None:
    measured, summary = run_evaluation(evaluation, oracle.connect)
    assert summary["AP"] == summary["AP50"] == summary["AP90"] == pytest.approx(1.0, abs=1e-9)
    assert "Average Precision" in measured.table
    assert (summary["images"], summary["images_resumed"], summary["detections"]) == (12, 0, 18)
    assert (summary["model"], summary["version"], summary["retries"]) == ("oracle", "3", 0)
    assert summary["images_per_second"] > 0
    assert set(summary["latency_ms"]) == {"mean", "p50", "p90", "p95", "p99", "max"}
    assert sorted(oracle.asked) == list(range(1, 13))
    json.dumps(summary)  # plain values only


def test_every_request_names_model_version_and_the_defaults(evaluation: Evaluation, oracle: Oracle) -> None:
    run_evaluation(evaluation, oracle.connect)
    left_ms = [float(query.pop("timeout_ms")) for query in oracle.queries]
    assert all(60_000 < left <= 120_000 for left in left_ms)  # what is left of the two minutes of a request
    expected = {"max_detections": "100", "score_threshold": "0.0", "model": "oracle", "version": "3"}
    assert oracle.queries == [expected] * 12


def test_a_model_that_returns_fewer_is_asked_for_its_limit(evaluation: Evaluation, oracle: Oracle) -> None:
    oracle.manifest = {"nms": {"max_detections": 40}, "files": {}}
    _, summary = run_evaluation(evaluation, oracle.connect)
    assert summary["parameters"]["max_detections"] == 40


def test_results_hold_three_scores_to_the_last_digit(
    evaluation: Evaluation, oracle: Oracle, document: dict[str, Any]
) -> None:
    run_evaluation(evaluation, oracle.connect)
    results = json.loads(evaluation.output.read_text())
    assert [entry["image_id"] for entry in results] == sorted(entry["image_id"] for entry in results)
    expected = [
        {
            "image_id": image["id"],
            "category_id": found["label_id"],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            **{name: found[name] for name in ("score", "classification_score", "localization_score")},
        }
        for image in document["images"]
        for found in objects_of(document, image["id"])
        for x1, y1, x2, y2 in [found["box"]]
    ]
    assert results == expected


def test_a_repeated_run_writes_the_same_bytes_whatever_the_concurrency(evaluation: Evaluation, oracle: Oracle) -> None:
    written = set()
    for concurrency in (1, 3, 50):
        run_evaluation(replace(evaluation, concurrency=concurrency), oracle.connect)
        written.add(evaluation.output.read_bytes())
    assert len(written) == 1


def test_nothing_but_the_results_stays_behind(evaluation: Evaluation, oracle: Oracle) -> None:
    run_evaluation(evaluation, oracle.connect)
    assert [path.name for path in evaluation.output.parent.iterdir()] == ["results.json"]


def broken_at(document: dict[str, Any], image_ids: set[int]) -> Oracle:
    """A server that refuses these images."""

    def find(image_id: int) -> list[dict[str, Any]] | httpx2.Response:
        if image_id in image_ids:
            return problem(422, "unreadable_image", "no pixels")
        return objects_of(document, image_id)

    return Oracle(find, LABELS)


def test_an_interrupted_run_asks_only_for_what_is_missing(
    evaluation: Evaluation, oracle: Oracle, document: dict[str, Any]
) -> None:
    run_evaluation(evaluation, oracle.connect)
    whole = evaluation.output.read_bytes()
    evaluation.output.unlink()

    broken = broken_at(document, {8})
    with pytest.raises(EvaluationError, match=r"image 8 .*no pixels.*answers are kept") as caught:
        run_evaluation(replace(evaluation, concurrency=1), broken.connect)
    assert "7 of 12" in str(caught.value)
    assert not evaluation.output.exists()

    oracle.asked.clear()
    _, summary = run_evaluation(evaluation, oracle.connect)
    assert sorted(oracle.asked) == [8, 9, 10, 11, 12]
    assert (summary["images"], summary["images_resumed"]) == (12, 7)
    assert evaluation.output.read_bytes() == whole


def test_a_torn_last_line_costs_one_image(evaluation: Evaluation, oracle: Oracle, document: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError):
        run_evaluation(replace(evaluation, concurrency=1), broken_at(document, {8}).connect)
    journal = evaluation.journal_path.read_bytes()
    evaluation.journal_path.write_bytes(journal[:-5])
    _, summary = run_evaluation(evaluation, oracle.connect)
    assert sorted(oracle.asked) == [7, 8, 9, 10, 11, 12]
    assert summary["AP"] == pytest.approx(1.0, abs=1e-9)


def test_a_complete_journal_needs_no_request(evaluation: Evaluation, oracle: Oracle, document: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError):
        run_evaluation(replace(evaluation, concurrency=1), broken_at(document, {12}).connect)
    half = replace(evaluation, half=Half.CALIBRATION)  # 1, 3, ... 11: all of them answered
    _, summary = run_evaluation(half, oracle.connect)
    assert oracle.asked == []
    assert summary["images_per_second"] is None
    assert (summary["images"], summary["images_resumed"]) == (6, 6)


@pytest.mark.parametrize("what", ["version", "weights", "parameters", "images"])
def test_answers_of_something_else_are_refused_until_restart(
    evaluation: Evaluation, oracle: Oracle, document: dict[str, Any], what: str
) -> None:
    with pytest.raises(EvaluationError):
        run_evaluation(replace(evaluation, concurrency=1), broken_at(document, {4}).connect)
    if what == "version":
        oracle.version = "4"
    elif what == "weights":
        oracle.manifest = {**oracle.manifest, "files": {"model.onnx": "1" * 64}}
    elif what == "parameters":
        evaluation = replace(evaluation, parameters={"score_threshold": 0.0, "alpha": 0.2})
    else:
        document["images"][0]["file_name"] = "part0/2.jpg"
    with pytest.raises(EvaluationError, match=r"something else.*--restart"):
        run_evaluation(evaluation, oracle.connect)
    assert oracle.asked == []
    run_evaluation(replace(evaluation, restart=True), oracle.connect)
    assert len(oracle.asked) == 12


def test_patience_may_change_between_runs(evaluation: Evaluation, oracle: Oracle, document: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError):
        run_evaluation(replace(evaluation, concurrency=1), broken_at(document, {4}).connect)
    run_evaluation(replace(evaluation, parameters={"score_threshold": 0.0, "timeout_ms": 9000}), oracle.connect)
    assert len(oracle.asked) == 9


def test_busy_answers_are_repeated_and_counted(evaluation: Evaluation, document: dict[str, Any]) -> None:
    busy = {2: 3, 5: 1}

    def find(image_id: int) -> list[dict[str, Any]] | httpx2.Response:
        if busy.get(image_id, 0):
            busy[image_id] -= 1
            return problem(429, "overloaded", "full", Retry_After="1")
        return objects_of(document, image_id)

    _, summary = run_evaluation(evaluation, Oracle(find, LABELS).connect)
    assert summary["retries"] == 4
    assert summary["AP"] == pytest.approx(1.0, abs=1e-9)


def test_an_answer_of_another_version_stops_the_run(evaluation: Evaluation, oracle: Oracle) -> None:
    def find(image_id: int) -> list[dict[str, Any]]:
        oracle.version = "4"  # deployed while the run was on
        return []

    oracle.find = find
    with pytest.raises(EvaluationError, match="oracle/4 answered instead of oracle/3"):
        run_evaluation(evaluation, oracle.connect)


@pytest.mark.parametrize(("half", "expected"), [(Half.CALIBRATION, 1), (Half.TEST, 2)])
def test_a_half_is_every_other_image(evaluation: Evaluation, oracle: Oracle, half: Half, expected: int) -> None:
    _, summary = run_evaluation(replace(evaluation, half=half), oracle.connect)
    assert sorted(oracle.asked) == list(range(expected, 13, 2))
    assert (summary["half"], summary["images"]) == (str(half), 6)
    assert summary["AP"] == pytest.approx(1.0, abs=1e-9)  # objects of the other half are not missed


@pytest.mark.parametrize("rank_by", list(RankBy))
def test_the_chosen_score_ranks_as_pycocotools_would(
    evaluation: Evaluation, document: dict[str, Any], rank_by: RankBy
) -> None:
    def find(image_id: int) -> list[dict[str, Any]]:
        """Each object twice, once displaced, with scores that disagree about which is better."""
        found = objects_of(document, image_id)
        for n, one in enumerate(list(found)):
            x1, y1, x2, y2 = one["box"]
            wrong = {**one, "box": [x1 + 6, y1, x2 + 6, y2]}
            found.append({**wrong, "score": 0.95 - n / 50, "classification_score": 0.1, "localization_score": 0.2})
        return found

    _, summary = run_evaluation(replace(evaluation, rank_by=rank_by), Oracle(find, LABELS).connect)
    results = json.loads(evaluation.output.read_text())
    expected, _ = coco_metrics(load_ground_truth(document), [{**r, "score": r[rank_by]} for r in results])
    assert {name: summary[name] for name in expected} == expected
    assert summary["rank_by"] == str(rank_by)
    assert 0 < summary["AP"] < 1 or rank_by is not RankBy.SCORE


def test_a_server_with_other_classes_is_warned_of(
    evaluation: Evaluation, document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run_evaluation(evaluation, Oracle(lambda _: [], {5: "red", 9: "cat"}).connect)
    out, err = capsys.readouterr()
    assert "9 is 'cat', here 'blue'" in err
    assert "5 is" not in err
    assert out == ""


def test_nothing_found_is_an_ap_of_0(evaluation: Evaluation) -> None:
    _, summary = run_evaluation(evaluation, Oracle(lambda _: [], LABELS).connect)
    assert (summary["AP"], summary["detections"]) == (0.0, 0)
    assert json.loads(evaluation.output.read_text()) == []


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg", "..\\up.jpg", ""])
def test_file_names_that_leave_the_folder_are_refused(
    evaluation: Evaluation, oracle: Oracle, document: dict[str, Any], name: str
) -> None:
    document["images"][3]["file_name"] = name
    with pytest.raises(EvaluationError, match="leaves"):
        run_evaluation(evaluation, oracle.connect)
    assert oracle.asked == []


def test_missing_files_are_counted_and_named(evaluation: Evaluation, oracle: Oracle) -> None:
    for name in ("part1/1.jpg", "part0/2.jpg"):
        (evaluation.source.images / name).unlink()
    with pytest.raises(EvaluationError, match=r"2 of 12 annotated images are not there, for example .*1\.jpg"):
        run_evaluation(evaluation, oracle.connect)
    assert oracle.asked == []


def test_annotations_without_images_or_with_repeated_ids_are_refused(
    evaluation: Evaluation, oracle: Oracle, document: dict[str, Any]
) -> None:
    for images, why in (([], "no images"), (document["images"][:1] * 2, "more than once")):
        source = replace(evaluation.source, annotations={**document, "images": images})
        with pytest.raises(EvaluationError, match=why):
            run_evaluation(replace(evaluation, source=source), oracle.connect)


@pytest.mark.parametrize(
    ("model", "version", "why"),
    [("other", None, "does not serve other; it serves oracle/3"), (None, "9", "a model in version 9")],
)
def test_a_model_that_is_not_served_is_told(
    evaluation: Evaluation, oracle: Oracle, model: str | None, version: str | None, why: str
) -> None:
    with pytest.raises(EvaluationError, match=why):
        run_evaluation(replace(evaluation, model=model, version=version), oracle.connect)


def test_a_server_that_is_not_there_is_told(evaluation: Evaluation, oracle: Oracle) -> None:
    def gone(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    oracle.answer = gone  # type: ignore[method-assign]
    with pytest.raises(EvaluationError, match=r"http://oracle\.test cannot be reached"):
        run_evaluation(evaluation, oracle.connect)


def test_an_address_that_is_none_is_told(evaluation: Evaluation, oracle: Oracle) -> None:
    with pytest.raises(EvaluationError, match="no server address"):
        run_evaluation(replace(evaluation, server="localhost"), oracle.connect)


def test_results_that_cannot_be_written_keep_the_answers(evaluation: Evaluation, oracle: Oracle) -> None:
    evaluation.output.mkdir(parents=True)
    with pytest.raises(EvaluationError, match="results cannot be written"):
        run_evaluation(evaluation, oracle.connect)
    evaluation.output.rmdir()
    oracle.asked.clear()
    _, summary = run_evaluation(evaluation, oracle.connect)
    assert oracle.asked == []
    assert summary["AP"] == pytest.approx(1.0, abs=1e-9)


def test_a_server_that_restarts_in_the_middle_costs_no_result(
    evaluation: Evaluation, oracle: Oracle, document: dict[str, Any]
) -> None:
    run_evaluation(evaluation, oracle.connect)
    whole = evaluation.output.read_bytes()
    answer, broken = oracle.answer, iter([False] * 6 + [True] * 8)

    def restarting(request: httpx2.Request) -> httpx2.Response:
        if next(broken, False):
            raise httpx2.ConnectError("refused")
        return answer(request)

    oracle.answer = restarting  # type: ignore[method-assign]
    _, summary = run_evaluation(evaluation, oracle.connect)
    assert summary["retries"] == 8
    assert evaluation.output.read_bytes() == whole
