"""Tables and text from results that are written down here."""

from pathlib import Path
from typing import Any

import pytest

from calibox_training.reproduce.endpoints import family
from calibox_training.reproduce.plan import load_plan
from calibox_training.reproduce.report import load_results, render
from calibox_training.reproduce.results import (
    METRICS,
    CellResult,
    RankingResult,
    ResultError,
    read_result,
    result_path,
    write_text,
)
from calibox_training.reproduce.tables import Row, Table, gain
from tests.support.reproduced import trained_facts

DRAWS = 100


def ranking(ap: float, delta: float = 0.0) -> RankingResult:
    interval = (delta, delta - 0.01, delta + 0.01)
    return RankingResult(
        metrics=dict.fromkeys(METRICS, ap),
        by_threshold=(ap,) * 10,
        correlation={"pearson_score": 0.5, "spearman_score": None},
        laece0=0.1,
        recall90=0.2,
        draws=DRAWS,
        delta=dict.fromkeys(METRICS, interval),
        delta_by_threshold=(interval,) * 10,
    )


def result(system: str, seed: int, rankings: dict[str, RankingResult], **values: Any) -> CellResult:
    trained = trained_facts(load_plan("cpu"), "deeppcb", system, seed)
    own = {"own": "product", **values}
    return CellResult(
        trained=trained,
        analysed_by="unknown",
        analysis_seconds=1,
        images=4,
        objects=9,
        rankings=rankings,
        chosen=None,
        reliability={},
        **{"delta_draws": {}, **own},
    )


def plain(seed: int, ap: float) -> CellResult:
    return result("retinanet", seed, {"classification": ranking(ap)}, own="classification")


def test_a_gain_over_another_training_is_paired_by_seed() -> None:
    fused = {seed: result("iou_aware", seed, {"product": ranking(ap)}) for seed, ap in ((0, 0.31), (1, 0.34), (2, 0.9))}
    results = {("deeppcb", "iou_aware"): fused, ("deeppcb", "retinanet"): {0: plain(0, 0.30), 1: plain(1, 0.31)}}
    row, base = (Row(label=s, system=s, ranking="own") for s in ("iou_aware", "retinanet"))
    found = gain(results, "deeppcb", row, base, "AP75")
    assert found.differences == pytest.approx((1.0, 3.0))  # points; seed 2 has no partner
    assert found.kind == "seeds"
    # Mean 2, error 1, and 12.7062 is Student's t for one degree of freedom.
    assert (found.estimate.low, found.estimate.high) == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-4)


def test_a_gain_of_the_same_weights_has_an_interval_over_seeds_and_images() -> None:
    units = {name: [100 * (i - 20) for i in range(DRAWS)] for name in ("AP", "AP50", "AP75", "AP90")}
    cell = result(
        "iou_aware",
        0,
        {"classification": ranking(0.30), "product": ranking(0.33), "LC": ranking(0.35, 0.05)},
        delta_draws={"product": units},
    )
    results = {("deeppcb", "iou_aware"): {0: cell}}
    rows = {name: Row(label=name, system="iou_aware", ranking=name) for name in ("classification", "product", "LC")}
    drawn = gain(results, "deeppcb", rows["product"], rows["classification"], "AP")
    assert drawn.estimate.mean == pytest.approx(3.0)
    # Draws run from -2.0 to 7.9 points in steps of 0.1; 2.5 % of 99 steps in from each end.
    assert (drawn.estimate.low, drawn.estimate.high) == pytest.approx((-2 + 0.2475, 7.9 - 0.2475))
    stored = gain(results, "deeppcb", rows["LC"], rows["classification"], "AP")
    assert (stored.estimate.low, stored.estimate.high) == pytest.approx((4.0, 6.0))
    assert stored.kind == "images"


TABLE = Table(
    title="A table",
    paper="a paper",
    data=("deeppcb",),
    columns=("AP",),
    rows=(
        Row(label="base", system="retinanet", ranking="classification", published={"AP": 34.3}),
        Row(label="ours", system="iou_aware", ranking="product", published={"AP": 35.4}),
        Row(label="never run", system="laar", ranking="LC", published={"AP": 30.0}),
    ),
)


def page(results: Any) -> str:
    return render(load_plan("cpu"), "cpu", [TABLE], results, ["papers/picture.png"])


def test_rows_show_ours_and_the_papers_gain_or_that_there_is_no_run() -> None:
    fused = {s: result("iou_aware", s, {n: ranking(0.34) for n in ("classification", "product")}) for s in (0, 1, 2)}
    results = {("deeppcb", "iou_aware"): fused, ("deeppcb", "retinanet"): {s: plain(s, 0.3) for s in (0, 1, 2)}}
    text = page(results)
    assert "| base | 3 | 30.0 | 34.3 |" in text
    assert "| ours | 3 | 34.0, +4.00 [+4.00, +4.00] | 35.4, +1.1 |" in text
    assert "| never run | no finished run | - | 30.0, -4.3 |" in text
    assert "iou_aware against retinanet: dAP75 +4.00 [+4.00, +4.00] points, 3 seeds: resolved: gain." in text
    assert "6 of 93 cells have a finished run" in text
    assert "![papers/picture.png](papers/picture.png)" in text
    assert "trained at commit 0123456789ab, analysed at unknown" in text


def test_one_seed_of_a_training_resolves_nothing() -> None:
    results = {
        ("deeppcb", "iou_aware"): {
            0: result("iou_aware", 0, {"classification": ranking(0.4), "product": ranking(0.4)})
        },
        ("deeppcb", "retinanet"): {0: plain(0, 0.3)},
    }
    assert "iou_aware against retinanet: dAP90 +10.00 points, one seed: not resolved." in page(results)


def test_a_page_without_any_result_says_so_in_every_row() -> None:
    text = page({})
    assert "0 of 93 cells have a finished run" in text
    assert text.count("no finished run") >= 3
    assert family(load_plan("cpu"), [TABLE], {}) == []


def test_results_of_another_recipe_are_left_out(tmp_path: Path) -> None:
    cells = list(load_plan("cpu").cells())
    good = plain(0, 0.3)
    for name, one in (("deeppcb-retinanet-seed0", good), ("deeppcb-retinanet-seed1", plain(1, 0.3))):
        changed = one.model_copy(update={"trained": one.trained.model_copy(update={"recipe_hash": "other"})})
        write_text(result_path(tmp_path, name), (one if one is good else changed).model_dump_json())
    assert load_results(cells, tmp_path) == {("deeppcb", "retinanet"): {0: good}}


def test_a_damaged_result_is_a_sentence(tmp_path: Path) -> None:
    path = result_path(tmp_path, "x")
    write_text(path, "{}")
    with pytest.raises(ResultError, match=r"x\.json is no result of this version.*delete it"):
        read_result(path)
