"""A plan from end to end on a drawn data set: trained in processes, analysed, reported, and taken up again."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from calibox_core.dataset import CocoFolder
from calibox_training.checkpoint import load_checkpoint
from calibox_training.data.coco import read_records
from calibox_training.recipe import parse_recipe
from calibox_training.reproduce.cell_run import CellOrder, run_cell
from calibox_training.reproduce.papers import Request, reproduce_papers
from calibox_training.reproduce.raw import RawError, read_raw
from calibox_training.reproduce.results import read_result, result_path
from calibox_training.reproduce.runner import RunnerError
from calibox_training.train import RunSettings, train
from tests.support.coco import make_coco_folder
from tests.support.recipes import tiny_recipe

# Lightning's advice for machines with many cores; a run of eight images needs no workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

NONE = {"model.quality": {"method": "none"}, "fusion": {"name": "classification"}}
SYSTEMS = [
    {"name": "iou_aware", "family": "retinanet", "data": ["rectangles"]},
    {"name": "retinanet", "family": "retinanet", "data": ["rectangles"], "overrides": NONE},
    {"name": "longer", "family": "retinanet", "data": ["rectangles"], "overrides": NONE, "start_from": "retinanet"},
]
TABLES = {
    "tables": [
        {
            "title": "A table",
            "paper": "a paper",
            "data": ["rectangles"],
            "columns": ["AP"],
            "rows": [
                {"label": "base", "system": "retinanet", "ranking": "classification", "published": {"AP": 34.3}},
                {"label": "ours", "system": "iou_aware", "ranking": "own", "published": {"AP": 35.4}},
            ],
        }
    ]
}


def write_plan(folder: Path) -> Path:
    document = tiny_recipe(schedule__epochs=2).model_dump(mode="json", exclude_defaults=True)
    machine = {
        "minutes": 10,
        "accelerator": "cpu",
        "seeds": [0],
        "bases": {"rectangles": {"retinanet": document}},
    }
    folder.mkdir()
    for name, content in (("systems", {"systems": SYSTEMS}), ("cpu", machine), ("tables", TABLES)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Request, list[str], CocoFolder]:
    """The plan run once, what was said, and its data."""
    root = tmp_path_factory.mktemp("reproduce")
    folder = make_coco_folder(root / "rectangles", train=8, val=6)
    request = Request(
        budget="cpu",
        output=root / "results",
        runs=root / "runs",
        data={"rectangles": str(folder.root)},
        plan=write_plan(root / "plan"),
    )
    said: list[str] = []
    reproduce_papers(request, report_only=False, say=said.append)
    return request, said, folder


def say_nothing(line: str) -> None:
    del line


def test_all_cells_end_with_a_result_and_a_page(done: tuple[Request, list[str], CocoFolder]) -> None:
    request, said, _ = done
    assert "0 cells have no finished run" in said
    text = (request.output / "papers.md").read_text()
    assert "3 of 3 cells have a finished run" in text
    assert "| base | 1 |" in text
    assert (request.output / "papers" / "rectangles-alpha.png").stat().st_size > 0


def test_the_own_ranking_redone_from_stored_outputs_is_what_training_measured(
    done: tuple[Request, list[str], CocoFolder],
) -> None:
    request, _, _ = done
    for name in ("iou_aware", "retinanet"):
        found = read_result(result_path(request.output, f"rectangles-{name}-seed0"))
        trained = load_checkpoint(request.runs / "rectangles" / name / "seed0" / "checkpoints" / "last.ckpt").metrics
        own = found.rankings[found.own]
        for key, value in own.metrics.items():
            assert value == pytest.approx(trained[key], abs=1e-6)  # written with six digits
        assert own.correlation["pearson_score"] == pytest.approx(trained["pearson_score"], abs=1e-6, nan_ok=True)


def test_finished_cells_are_not_trained_again_and_the_page_needs_their_results_alone(
    done: tuple[Request, list[str], CocoFolder], tmp_path: Path
) -> None:
    request, _, _ = done
    shutil.copytree(request.output, tmp_path / "results")
    elsewhere = replace(request, output=tmp_path / "results", runs=tmp_path / "no-runs")
    said: list[str] = []
    reproduce_papers(elsewhere, report_only=False, say=said.append)
    assert said[0] == "3 of 3 cells are finished"
    assert not (tmp_path / "no-runs").exists()
    (tmp_path / "results" / "papers.md").unlink()
    reproduce_papers(elsewhere, report_only=True, say=said.append)
    assert (tmp_path / "results" / "papers.md").read_text() == (request.output / "papers.md").read_text()


def test_a_used_up_budget_starts_nothing_and_says_which_rows_have_no_run(
    done: tuple[Request, list[str], CocoFolder], tmp_path: Path
) -> None:
    request, _, _ = done
    later = replace(request, output=tmp_path / "results", runs=tmp_path / "runs", minutes=0.0)
    said: list[str] = []
    reproduce_papers(later, report_only=False, say=said.append)
    assert "3 cells have no finished run" in said
    text = (tmp_path / "results" / "papers.md").read_text()
    assert "Without a finished run: rectangles iou_aware, rectangles retinanet, rectangles longer." in text


def test_a_run_of_another_recipe_is_not_taken_for_this_one(
    done: tuple[Request, list[str], CocoFolder], tmp_path: Path
) -> None:
    request, _, _ = done
    plan = tmp_path / "plan"
    shutil.copytree(request.plan, plan)
    machine = yaml.safe_load((plan / "cpu.yaml").read_text())
    machine["bases"]["rectangles"]["retinanet"]["schedule"]["epochs"] = 3
    (plan / "cpu.yaml").write_text(yaml.safe_dump(machine))
    with pytest.raises(RunnerError, match="begun with another recipe"):
        reproduce_papers(replace(request, plan=plan), report_only=False, say=say_nothing)


def test_systems_of_a_family_and_seed_start_from_the_same_weights(
    done: tuple[Request, list[str], CocoFolder],
) -> None:
    request, _, _ = done
    cells = request.runs / "rectangles"
    starts = {
        name: torch.load(cells / name / "seed0" / "start.ckpt", weights_only=True)["state_dict"]
        for name in ("iou_aware", "retinanet")
    }
    common = set(starts["iou_aware"]) & set(starts["retinanet"])
    assert all(torch.equal(starts["iou_aware"][key], starts["retinanet"][key]) for key in common)
    assert set(starts["iou_aware"]) - common == {"detector.head.quality_conv.weight", "detector.head.quality_conv.bias"}
    assert not (cells / "longer" / "seed0" / "start.ckpt").exists()  # it goes on from the other's


def test_stored_outputs_of_other_images_are_refused(done: tuple[Request, list[str], CocoFolder]) -> None:
    request, _, folder = done
    run = request.runs / "rectangles" / "iou_aware" / "seed0"
    model = load_checkpoint(run / "checkpoints" / "last.ckpt")
    records = read_records(folder.annotations("val"), model.classes)
    with pytest.raises(RawError, match="holds 6 images, the validation split 5"):
        read_raw(run / "raw.npz", model.recipe, records[:5])


def test_a_cell_that_was_stopped_after_an_epoch_ends_with_the_weights_of_one_left_alone(
    done: tuple[Request, list[str], CocoFolder], tmp_path: Path
) -> None:
    request, _, folder = done
    whole = request.runs / "rectangles" / "iou_aware" / "seed0"
    order = CellOrder.model_validate_json((whole / "cell.json").read_bytes()).model_copy(update={"result": None})
    recipe = parse_recipe(order.recipe, source="the cell")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a cell's process
    try:
        first = RunSettings(
            output=tmp_path, accelerator="cpu", workers=0, init_from=whole / "start.ckpt", progress=False
        )
        train(recipe, folder, replace(first, max_steps=2))  # one epoch of eight images in batches of four
        (tmp_path / "metrics.json").unlink()  # which a process that is killed does not write
        trained = run_cell(tmp_path, order)
    finally:
        torch.set_num_threads(threads)
    ends = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in (tmp_path, whole)]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[1])
    assert trained.training_seconds <= trained.cell_seconds
    assert (tmp_path / "raw.npz").read_bytes() == (whole / "raw.npz").read_bytes()


@pytest.mark.slow
def test_sources_whose_weights_are_lost_are_trained_again_for_those_that_need_them(
    done: tuple[Request, list[str], CocoFolder], tmp_path: Path
) -> None:
    request, _, _ = done
    shutil.copytree(request.output, tmp_path / "results")
    result_path(tmp_path / "results", "rectangles-longer-seed0").unlink()
    said: list[str] = []
    again = replace(request, output=tmp_path / "results", runs=tmp_path / "runs")
    reproduce_papers(again, report_only=False, say=said.append)
    assert said[0] == "2 of 3 cells are finished"
    assert [line for line in said if line.endswith("started")] == [
        "rectangles-retinanet-seed0: started",
        "rectangles-longer-seed0: started",
    ]
    assert "0 cells have no finished run" in said
