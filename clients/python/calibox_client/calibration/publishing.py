"""The calibrated bundle: the same graph under the next version, whole or not at all."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibox_core.bundle import Bundle, copy_files, new_bundle, next_version, read_bundle, write_manifest
from calibox_core.engines import ENGINES_FOLDER
from calibox_core.fusion import Fusion
from calibox_core.manifest import Manifest
from calibox_core.operating_point import CalibrationRecord, OperatingPoint
from calibox_core.score_map import ScoreMap


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What changes."""

    fusion: Fusion
    score_map: ScoreMap
    default_threshold: float  # of reported scores
    points: Sequence[OperatingPoint]
    record: CalibrationRecord


def destination_of(bundle: Bundle, models: Path | None, version: str | None) -> Path:
    """Where the calibrated bundle goes: beside its origin, one version above it and all others, unless named."""
    folder = (bundle.folder.resolve().parents[1] if models is None else models) / bundle.manifest.name
    above = max(int(next_version(folder)), int(bundle.manifest.version) + 1)
    return folder / (version or str(above))


def publish(bundle: Bundle, calibrated: Calibrated, destination: Path) -> Bundle:
    """Writes the bundle; engines that were built for the graph go with it, for they are of the very same file.

    Raises:
        BundleError: the version is taken.
    """
    with new_bundle(destination) as scratch:
        copy_files(bundle, scratch)
        if (bundle.folder / ENGINES_FOLDER).is_dir():
            shutil.copytree(bundle.folder / ENGINES_FOLDER, scratch / ENGINES_FOLDER)
        write_manifest(scratch, calibrated_manifest(bundle.manifest, calibrated, version=destination.name))
    return read_bundle(destination)


def calibrated_manifest(old: Manifest, calibrated: Calibrated, *, version: str) -> Manifest:
    """The old one with another version, ranking, map and threshold, and with operating points."""
    kept = calibrated.fusion == old.fusion
    changed = {
        "schema_version": 2,
        "version": version,
        "fusion": calibrated.fusion,
        "score_map": calibrated.score_map,
        "thresholds": old.thresholds.model_copy(update={"score": calibrated.default_threshold}),
        "operating_points": tuple(calibrated.points),
        "calibration": calibrated.record,
        "measured": old.measured if kept else {},  # of another ranking
        "parity": None,  # of another version
    }
    return Manifest.model_validate(old.model_dump() | changed)
