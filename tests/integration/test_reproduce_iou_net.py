"""IoU-Net's comparison from end to end on drawn pictures: trained in processes, analysed, timed, reported, resumed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from calibox_training.reproduce.cell_run import CellOrder
from calibox_training.reproduce.papers import Request
from calibox_training.reproduce_iou_net.cell_run import run_cell
from calibox_training.reproduce_iou_net.comparison import reproduce_iou_net
from calibox_training.reproduce_iou_net.results import read_result, read_speeds, result_path
from tests.support.coco import make_coco_folder
from tests.support.recipes import tiny_recipe
from tests.support.two_stage import BRANCH, tiny_rcnn

# Lightning's advice for machines with many cores; a run of eight images needs no workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

NONE = {"model__quality": {"method": "none"}, "fusion": {"name": "classification"}}
JOINT = {"predictor": None, "detector.model.iou_branch": BRANCH, "detector.fusion": {"name": "localization"}}
SYSTEMS = [
    {"name": "retinanet", "family": "retinanet", "data": ["rectangles"]},
    {"name": "joint", "family": "faster", "data": ["rectangles"], "overrides": JOINT},
]
TABLES = {
    "tables": [
        {
            "title": "A table",
            "paper": "a paper",
            "data": ["rectangles"],
            "columns": ["AP"],
            "rows": [
                {"label": "base", "system": "joint", "ranking": "classification", "published": {"AP": 36.4}},
                {"label": "guided", "system": "joint", "ranking": "guided", "published": {"AP": 37.3}},
                {"label": "masks", "system": "mask", "ranking": "classification", "note": "not run: no masks"},
            ],
        }
    ]
}
PREDICTOR = {
    "network": {"width": 16, "pooled": 3, "initialisation": "he"},
    "jitter": {"per_image": 8},
    "schedule": {"optimizer": "adamw", "learning_rate": 0.001, "epochs": 1, "batch_size": 4, "warmup_iterations": 0},
}


def write_plan(folder: Path) -> Path:
    bases = {}
    for family, recipe in (
        ("retinanet", tiny_recipe(schedule__epochs=1, **NONE)),
        ("faster", tiny_rcnn(branch=False, schedule__epochs=1)),
    ):
        document = recipe.model_dump(mode="json", exclude_defaults=True)
        own = {key: value for key, value in document.items() if key not in ("name", "seed", "data")}
        bases[family] = {
            "data": document["data"],
            "detector": own,
            "predictor": PREDICTOR,
            "refinement": {"steps": 2},
        }
    machine = {"minutes": 10, "accelerator": "cpu", "seeds": [0], "bases": {"rectangles": bases}}
    folder.mkdir()
    for name, content in (("systems", {"systems": SYSTEMS}), ("cpu", machine), ("tables", TABLES)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Request, list[str]]:
    """The plan run once, and what was said."""
    root = tmp_path_factory.mktemp("iou-net")
    folder = make_coco_folder(root / "rectangles", train=4, val=3)
    request = Request(
        budget="cpu",
        output=root / "results",
        runs=root / "runs",
        data={"rectangles": str(folder.root)},
        plan=write_plan(root / "plan"),
    )
    said: list[str] = []
    reproduce_iou_net(request, report_only=False, say=said.append)
    return request, said


def test_all_cells_end_with_results_speeds_pictures_and_a_page(done: tuple[Request, list[str]]) -> None:
    request, said = done
    assert "0 cells have no finished run" in said
    text = (request.output / "iou-net.md").read_text()
    assert "2 of 2 cells have a finished run" in text
    assert "| masks | not run: no masks |" in text
    pictures = sorted(path.name for path in (request.output / "iou-net").glob("*.png"))
    assert pictures == [f"rectangles-figure{number}.png" for number in (2, 3, 4, 7)]
    speeds = read_speeds(request.output, {"rectangles": None})["rectangles"]
    assert list(speeds.milliseconds) == ["retinanet", "joint"]


def test_a_joint_predictor_is_not_trained_again_and_only_two_stages_iterate(done: tuple[Request, list[str]]) -> None:
    request, _ = done
    single, joint = (read_result(result_path(request.output, f"rectangles-{n}-seed0")) for n in ("retinanet", "joint"))
    runs = request.runs / "rectangles"
    assert (runs / "retinanet" / "seed0" / "predictor").is_dir()
    assert not (runs / "joint" / "seed0" / "predictor").exists()
    assert set(single.predictor) == {"train_loss", "iou_error", "pearson_localization", "pearson_n"}
    assert joint.predictor == {}
    assert [len(cell.optimisation) for cell in (single, joint)] == [3, 3]
    assert [len(cell.regression) for cell in (single, joint)] == [1, 3]


def test_the_page_needs_the_results_alone_and_nothing_is_run_again(
    done: tuple[Request, list[str]], tmp_path: Path
) -> None:
    request, _ = done
    shutil.copytree(request.output, tmp_path / "results")
    elsewhere = replace(request, output=tmp_path / "results", runs=tmp_path / "no-runs")
    said: list[str] = []
    reproduce_iou_net(elsewhere, report_only=False, say=said.append)
    assert said[:2] == ["2 of 2 cells are finished", "0 cells have no finished run"]
    assert not (tmp_path / "no-runs").exists()
    (tmp_path / "results" / "iou-net.md").unlink()
    reproduce_iou_net(elsewhere, report_only=True, say=said.append)
    assert (tmp_path / "results" / "iou-net.md").read_text() == (request.output / "iou-net.md").read_text()


def test_a_cell_that_was_stopped_goes_on_with_what_is_missing(done: tuple[Request, list[str]], tmp_path: Path) -> None:
    """Stopped while the predictor was trained: the detector stays, the predictor's folder is begun again."""
    request, _ = done
    whole = request.runs / "rectangles" / "retinanet" / "seed0"
    shutil.copytree(whole, tmp_path / "cell")
    for name in ("trained.json", "raw.npz", "predictor/metrics.json", "predictor/seconds.json"):
        (tmp_path / "cell" / name).unlink()
    detector = tmp_path / "cell" / "detector" / "checkpoints" / "last.ckpt"
    before = detector.stat().st_mtime_ns
    order = CellOrder.model_validate_json((whole / "cell.json").read_bytes())
    run_cell(tmp_path / "cell", order.model_copy(update={"result": str(tmp_path / "result.json")}))
    assert detector.stat().st_mtime_ns == before
    own, again = (
        json.loads((folder / "predictor" / "metrics.json").read_bytes()) for folder in (whole, tmp_path / "cell")
    )
    assert again == pytest.approx(own, rel=1e-3)  # threads may differ
    assert read_result(tmp_path / "result.json").trained.recipe_hash == order.recipe_hash
