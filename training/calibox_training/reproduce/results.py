"""The result of one cell: a small JSON from which the report is made, also where there are no runs."""

from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from calibox_core.bootstrap import Interval
from calibox_core.errors import CaliboxError
from calibox_training.parts import Part

BASE = "classification"  # the ranking that differences are measured from
METRICS = {"AP": None, "AP50": 0, "AP60": 2, "AP70": 4, "AP75": 5, "AP80": 6, "AP90": 8}  # numbers of thresholds
DRAWN = ("AP", "AP50", "AP75", "AP90")  # metrics whose single draws are kept
DRAW_UNIT = 1e-5  # of AP, 0..1: a thousandth of a point


Form = TypeVar("Form", bound=Part)


class ResultError(CaliboxError):
    """A stored result cannot be read."""


class Trained(Part):
    """Facts of a finished training."""

    data: str
    system: str
    seed: int
    recipe_hash: str
    commit: str
    machine: str
    torch: str
    accelerator: str
    epochs: int
    images: int = Field(description="Seen in training, all epochs together.")
    training_seconds: float = Field(description="Of the process, its start and last validation included.")
    cell_seconds: float = Field(description="With the raw evaluation.")
    images_per_second: float
    processor_seconds: float | None = Field(
        default=None,
        description="Of the training process, validation included and loading in other processes not; what other work "
        "on the machine leaves as it is. None where it was stopped in between, and for cells from before it was kept.",
    )
    milliseconds_per_image: float = Field(
        description="Network and post-processing of one image, median; processor time on CPUs."
    )
    finished: str = Field(description="UTC.")


class RankingResult(Part):
    """One ranking on the whole validation split, or on a half of it; AP 0..1."""

    metrics: dict[str, float | None]
    by_threshold: tuple[float, ...] = Field(description="AP at IoU 0.5, 0.55, ... 0.95.")
    correlation: dict[str, float | None]
    laece0: float | None
    recall90: float | None = Field(description="At IoU 0.9, of the detections that are left after suppression.")
    draws: int = Field(description="Resamplings behind the intervals.")
    delta: dict[str, Interval] = Field(description="Metric minus that of `classification`, the same images paired.")
    delta_by_threshold: tuple[Interval, ...]


class Chosen(Part):
    """The alpha of `p^alpha * q^(1-alpha)` with the best AP on the calibration half, measured on the test half."""

    alpha: float
    calibration_ap: float
    test_images: int
    classification: RankingResult
    fused: RankingResult


class CellResult(Part):
    """Everything that the report needs of one cell."""

    trained: Trained
    analysed_by: str = Field(description="Commit of the analysis.")
    analysis_seconds: float
    images: int
    objects: int
    own: str = Field(description="The recipe's own ranking.")
    rankings: dict[str, RankingResult]
    chosen: Chosen | None = Field(description="None without a quality branch.")
    delta_draws: dict[str, dict[str, list[int]]] = Field(
        description="By ranking and metric: each resampling's difference to `classification`, in units of 1e-5."
    )
    reliability: dict[str, list[tuple[float, float, int]]] = Field(
        description="Mean score, mean IoU, detections in ten bins of the score, by ranking."
    )

    @property
    def headline(self) -> float:
        """AP of the recipe's own ranking, 0..1; 0 where there is none."""
        return self.rankings[self.own].metrics["AP"] or 0.0


def result_path(output: Path, name: str) -> Path:
    """Where a cell's result lies."""
    return output / "papers" / f"{name}.json"


def read_result(path: Path) -> CellResult:
    """A stored result; see `read_as`."""
    return read_as(path, CellResult)


def read_as(path: Path, form: type[Form]) -> Form:
    """A stored result of this form.

    Raises:
        ResultError: not readable, or of another form.
    """
    try:
        return form.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ResultError(
            f"{path} is no result of this version ({reason}): delete it to analyse its run again"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes beside the target and renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.part")
    scratch.write_text(text if text.endswith("\n") else text + "\n")
    scratch.replace(path)


def named_metrics(by_threshold: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The metrics of `METRICS` from AP at the ten thresholds, along the last axis."""
    return {
        name: np.mean(by_threshold, axis=-1) if number is None else by_threshold[..., number]
        for name, number in METRICS.items()
    }
