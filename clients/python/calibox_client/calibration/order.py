"""What a calibration is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibox_client.calibration.choices import Means, Metric
from calibox_client.evaluation.source import Source
from calibox_core.operating_point import Wanted


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `calibox calibrate` was asked to do."""

    bundle: Path
    source: Source
    dataset: str  # as it was named
    split: str
    output: Path  # of the report; journals lie beside it
    server: str | None  # None starts one
    models: Path | None  # folder of models to write into
    version: str | None  # of the new bundle
    concurrency: int
    restart: bool
    metric: Metric
    keep_fusion: bool
    always: bool
    means: Means
    match_iou: float
    wanted: Sequence[Wanted]
    per_class: bool
