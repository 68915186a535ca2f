"""IoU-Net's plan and page: every shipped cell is a valid recipe, and figures written down here reach their rows."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from calibox_training.recipe import RecipeError
from calibox_training.reproduce.plan import BudgetName, load_plan
from calibox_training.reproduce.report import results_of
from calibox_training.reproduce.results import BASE, METRICS, RankingResult, write_text
from calibox_training.reproduce.tables import load_tables
from calibox_training.reproduce_iou_net.cell_recipe import parse_cell
from calibox_training.reproduce_iou_net.comparison import PLANS
from calibox_training.reproduce_iou_net.detectors import parse_detector
from calibox_training.reproduce_iou_net.pipelines import PIPELINES
from calibox_training.reproduce_iou_net.report import render
from calibox_training.reproduce_iou_net.results import Confidence, IouNetResult, SpeedResult, read_result, result_path
from tests.support.reproduced import trained_facts

AP = {BASE: 0.30, "soft": 0.31, "guided": 0.32, "refined": 0.33, "guided_refined": 0.35}
PLAN = load_plan("cpu", PLANS)
TABLES = load_tables(PLANS)


def ranking(pipeline: str) -> RankingResult:
    gain = AP[pipeline] - AP[BASE]
    interval = (gain, gain - 0.015, gain + 0.015)
    return RankingResult(
        metrics=dict.fromkeys(METRICS, AP[pipeline]),
        by_threshold=(AP[pipeline],) * 10,
        correlation={"pearson_classification": 0.25, "pearson_localization": 0.5, "candidates": 1234.0},
        laece0=0.1,
        recall90=0.2,
        draws=100,
        delta=dict.fromkeys(METRICS, interval),
        delta_by_threshold=(interval,) * 10,
    )


def result(data: str, system: str, *, passes: int) -> IouNetResult:
    trained = trained_facts(PLAN, data, system, 0)
    return IouNetResult(
        trained=trained,
        analysed_by="unknown",
        analysis_seconds=1,
        images=4,
        objects=20,
        own=BASE,
        rankings={name: ranking(name) for name in PIPELINES},
        chosen=None,
        delta_draws={},
        reliability={},
        predictor={"iou_error": 0.0625, "pearson_localization": 0.75},
        predictor_seconds=90,
        candidates=4321,
        confidence=Confidence(iou_edges=(0.5, 1), score_edges=(0, 1), classification=((7,),), localization=((7,),)),
        positive_edges=(0.5, 0.9, 1.0),
        positives={BASE: (12, 2), "guided": (11, 3), "none": (10, 8)},
        recall_thresholds=(0.5, 0.7, 0.9),
        recall={BASE: (0.7, 0.5, 0.1), "soft": (0.75, 0.6, 0.3), "guided": (0.7, 0.5, 0.15), "none": (0.9, 0.8, 0.4)},
        optimisation=tuple({"AP": ap} for ap in (0.30, 0.32, 0.33)),
        regression=tuple({"AP": ap} for ap in (0.30, 0.31, 0.29)[:passes]),
    )


@pytest.fixture
def page(tmp_path: Path) -> str:
    """Two of the eight cells have results, read again from their files."""
    for one in (result("deeppcb", "faster", passes=3), result("deeppcb", "retinanet", passes=1)):
        write_text(result_path(tmp_path, f"deeppcb-{one.trained.system}-seed0"), one.model_dump_json())
    results = results_of(PLAN.cells(), lambda name: result_path(tmp_path, name), read_result)
    return render(PLAN, "cpu", TABLES, results, speeds(), ["iou-net/deeppcb-figure4.png"])


def speeds() -> Mapping[str, SpeedResult]:
    ways = {"detector": 20.0, "features": 12.0, "guided": 37.0, "guided_refined": 50.0}
    one = SpeedResult(
        data="deeppcb",
        machine="a machine",
        torch="2",
        commit="0123456789abcdef",
        accelerator="cpu",
        finished="2026-01-02T03:04Z",
        images=100,
        recipe_hashes={},
        milliseconds={"faster": ways},
    )
    return {"deeppcb": one}


@pytest.mark.parametrize("budget", ["cpu", "gpu"])
def test_every_cell_that_ships_is_a_valid_recipe(budget: BudgetName) -> None:
    for cell in load_plan(budget, PLANS).cells():
        recipe = parse_cell(cell.document, source=cell.name)
        detector = parse_detector(recipe.detector_document, source=cell.name)
        assert detector.data.name == cell.data
        assert (detector.seed, detector.name) == (cell.seed, recipe.name)
        own = getattr(detector.model, "iou_branch", None)  # type: ignore[attr-defined]
        assert (recipe.predictor is None) == (own is not None)


def test_rows_of_the_tables_name_pipelines_and_either_a_system_or_a_reason() -> None:
    systems = {system.name for system in PLAN.systems}
    for table in TABLES:
        labels = [row.label for row in table.rows]
        for row in table.rows:
            assert row.ranking in PIPELINES
            assert (row.system in systems) != bool(row.note)
            assert row.against is None or row.against in labels


def test_a_cell_with_an_unknown_key_is_refused_by_name() -> None:
    document = next(PLAN.cells()).document | {"refinment": {}}
    with pytest.raises(RecipeError, match="cell of the test is no cell of IoU-Net's comparison: refinment: Extra"):
        parse_cell(document, source="cell of the test")


def test_the_page_says_what_was_run_and_what_was_not(page: str) -> None:
    assert "`calibox reproduce iou-net --budget cpu`: 2 of 8 cells have a finished run" in page
    assert "a machine, cpu; torch 2; 2026-01-02 to 2026-01-02; trained at commit 0123456789ab" in page
    assert "- deeppcb, cascade: no finished run." in page
    assert "| Mask R-CNN | not run: no data set here has masks | - | 37.5 |" in page
    assert "| Cascade R-CNN | no finished run | - | 40.6 |" in page


def test_gains_have_their_intervals_and_say_where_they_hold_zero(page: str) -> None:
    line = next(
        line for line in page.splitlines() if line.startswith("- deeppcb, faster, IoU-guided NMS against standard NMS")
    )
    assert "one seed: dAP +2.00 [+0.50, +3.50], " in line
    line = next(line for line in page.splitlines() if line.startswith("- deeppcb, faster, Soft-NMS"))
    assert "dAP +1.00 [-0.50, +2.50] (not resolved), " in line
    assert "| FPN, IoU-NMS | 1 | 32.0, +2.00 [+0.50, +3.50] | 37.3, +0.9 |" in page


def test_figures_reach_their_rows(page: str) -> None:
    rows = [
        "| deeppcb | faster | 0.250 | 0.500 | 1234 |",  # figure 2
        "| deeppcb | faster | standard NMS | 2 | 25% | 14 |",  # figure 3: 2 of 8 above 0.9
        "| deeppcb | faster | optimisation | 30.00 | 32.00 | 33.00 |",  # figure 4
        "| deeppcb | faster | regression | 30.00 | 31.00 | 29.00 |",
        "| deeppcb | faster | IoU-guided NMS | 70.0 | 50.0 | 15.0 | 28.9 |",  # figure 7
        "| faster | 20.0 | 25.0 | 38.0 | 0.255 s |",  # table 4, the features counted once
        "| deeppcb | faster | 0.062 | 0.750 | 1.5 | 4321 |",
    ]
    for row in rows:
        assert row in page, row
    assert "| deeppcb | retinanet | regression |" not in page  # nothing to iterate
    assert "![iou-net/deeppcb-figure4.png](iou-net/deeppcb-figure4.png)" in page
