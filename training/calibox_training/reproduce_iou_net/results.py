"""The result of one cell: what the figures and tables are made of, also where there are no runs."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from calibox_training.parts import Part
from calibox_training.reproduce.results import CellResult, read_as
from calibox_training.reproduce.runner import Comparison

FOLDER = "iou-net"  # of results and pictures, below the output
Counts = tuple[tuple[int, ...], ...]
AtSteps = tuple[dict[str, float | None], ...]  # metrics 0..1 after 0, 1, ... steps


class Confidence(Part):
    """Figure 2: pairs of candidates and objects of their class by true IoU and by a score."""

    iou_edges: tuple[float, ...]
    score_edges: tuple[float, ...]
    classification: Counts = Field(description="Candidates in each bin of IoU (rows) and p (columns).")
    localization: Counts = Field(description="The same with the predicted IoU.")


class IouNetResult(CellResult):
    """A cell. Its rankings are the paper's pipelines; `classification` is standard NMS by p."""

    predictor: dict[str, float | None] = Field(description="Metrics of its training; empty where it is joint.")
    predictor_seconds: float = Field(description="Of the predictor's training, in `trained` too; 0 where it is joint.")
    candidates: int = Field(description="Of all images, before suppression.")
    confidence: Confidence
    positive_edges: tuple[float, ...] = Field(description="Of the bins of IoU of figure 3.")
    positives: dict[str, tuple[int, ...]] = Field(description="Figure 3: objects by the IoU of their positive box.")
    recall_thresholds: tuple[float, ...]
    recall: dict[str, tuple[float, ...]] = Field(description="Figure 7.")
    optimisation: AtSteps = Field(description="Figure 4, after standard NMS.")
    regression: AtSteps = Field(description="Figure 4; one entry where there is no regressor to iterate.")


class SpeedResult(Part):
    """Table 4: milliseconds per image, median of interleaved rounds, by system and pipeline."""

    data: str
    machine: str
    torch: str
    commit: str
    accelerator: str
    finished: str = Field(description="UTC.")
    images: int
    recipe_hashes: dict[str, str] = Field(description="By system.")
    milliseconds: dict[str, dict[str, float]] = Field(description="By system and pipeline.")


def result_path(output: Path, name: str) -> Path:
    """Where a cell's result lies."""
    return output / FOLDER / f"{name}.json"


def read_result(path: Path) -> IouNetResult:
    """A stored result; see `read_as`."""
    return read_as(path, IouNetResult)


def speed_path(output: Path, data: str) -> Path:
    """Where a data set's speeds lie."""
    return output / FOLDER / f"{data}-speed.json"


def read_speeds(output: Path, data: Mapping[str, object]) -> dict[str, SpeedResult]:
    """The speeds that are there, by data set."""
    paths = {name: speed_path(output, name) for name in data}
    return {name: read_as(path, SpeedResult) for name, path in paths.items() if path.exists()}


IOU_NET = Comparison(module="calibox_training.reproduce_iou_net.cell_run", result_path=result_path, read=read_result)
